//! The lab itself: plain flannel lets everything through, labs do not meet, and nothing is left of one.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use vethwall_tests::lab::{Applied, Backend, Engine, Families, Lab, Options, Probe, State};

/// Three namespaces with three pods each: web on TCP and UDP, one pod in the first node's network, one that serves nothing.
fn world(namespaces: &[&str]) -> Result<TempDir> {
    let directory = tempfile::tempdir()?;
    for namespace in namespaces {
        let mut text = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n");
        for (pod, node) in [("a", "left"), ("b", "right"), ("c", "left")] {
            text += &format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: {namespace}, name: {pod}, labels: {{app: web}}}}\n\
                 spec:\n  nodeName: {node}\n  containers:\n  - name: web\n    image: web\n    ports:\n    \
                 - {{name: http, containerPort: 80}}\n    - {{containerPort: 81, protocol: UDP}}\n"
            );
        }
        fs::write(directory.path().join(format!("{namespace}.yaml")), text)?;
    }
    Ok(directory)
}

/// A lab that is taken down when the test ends, however it ends.
struct Guard(Lab);

impl Drop for Guard {
    fn drop(&mut self) {
        Lab::down(&self.0.state.name).expect("down");
    }
}

fn up(name: &str, directory: &Path, change: impl FnOnce(&mut Options)) -> Result<(Guard, Applied)> {
    let mut options = Options::new(&format!("{name}-{}", std::process::id()), directory);
    options.engine = Engine::None;
    change(&mut options);
    let (lab, applied) = Lab::up(&options, &mut |_| {})?;
    Ok((Guard(lab), applied))
}

/// `from to port protocol result` a line.
fn expect(lab: &Lab, lines: &str) -> Result<()> {
    let lines: Vec<Vec<_>> = lines
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| !words.is_empty())
        .collect();
    let probes: Vec<_> = lines
        .iter()
        .map(|words| Probe::new(words[0], words[1], words[2].parse().expect("a port"), words[3]))
        .collect();
    for (words, outcome) in lines.iter().zip(lab.probe(&probes)?) {
        ensure!(
            outcome.result == words[4],
            "{}: {} {:?}",
            words.join(" "),
            outcome.result,
            outcome.detail
        );
    }
    Ok(())
}

#[test]
fn every_pod_reaches_every_other_in_plain_flannel() -> Result<()> {
    let world = world(&["x", "y", "z"])?;
    let started = Instant::now();
    let (lab, applied) = up("all", world.path(), |_| {})?;
    ensure!(applied.complete(), "{applied:?}");
    ensure!(
        started.elapsed() < Duration::from_secs(10),
        "up took {:?}",
        started.elapsed()
    );
    let pods: Vec<_> = lab.0.state.pods.keys().cloned().collect();
    ensure!(pods.len() == 9);
    let mut probes = Vec::new();
    for from in &pods {
        for to in pods.iter().filter(|to| *to != from) {
            let (port, protocol) = if probes.len() % 2 == 0 {
                (80, "TCP")
            } else {
                (81, "UDP")
            };
            probes.push(Probe::new(from, to, port, protocol));
        }
    }
    ensure!(probes.len() == 72);
    let started = Instant::now();
    let outcomes = lab.0.probe(&probes)?;
    ensure!(
        started.elapsed() < Duration::from_secs(10),
        "probes took {:?}",
        started.elapsed()
    );
    for (probe, outcome) in probes.iter().zip(outcomes) {
        ensure!(outcome.result == "allowed", "{probe:?}: {outcome:?}");
        ensure!(
            outcome.answer.as_deref() == Some(probe.to.as_str()),
            "{probe:?} was answered by {outcome:?}"
        );
    }
    Ok(())
}

const SERVICES: &str = "\
apiVersion: v1
kind: Service
metadata: {namespace: x, name: web}
spec:
  type: NodePort
  clusterIP: 10.96.7.7
  selector: {app: web}
  ports:
  - {name: http, port: 8080, targetPort: http, nodePort: 30080}
  - {name: udp, port: 8081, targetPort: 81, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {namespace: x, name: nobody}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: x, name: host}
spec:
  nodeName: left
  hostNetwork: true
  containers: [{name: host, image: host, ports: [{containerPort: 9100}, {containerPort: 9101, protocol: UDP}]}]
---
apiVersion: v1
kind: Pod
metadata: {namespace: x, name: mapped}
spec:
  nodeName: right
  containers: [{name: mapped, image: mapped, ports: [{containerPort: 70, hostPort: 7070}]}]
---
apiVersion: v1
kind: Pod
metadata: {namespace: x, name: done}
spec: {nodeName: left, containers: [{name: done, image: done, ports: [{containerPort: 80}]}]}
status: {phase: Succeeded}
---
apiVersion: v1
kind: Namespace
metadata: {name: kube-system}
---
apiVersion: v1
kind: Pod
metadata: {namespace: kube-system, name: dns, labels: {k8s-app: kube-dns}}
spec: {containers: [{name: dns, image: dns, ports: [{containerPort: 53, protocol: UDP}, {containerPort: 53}]}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: kube-system, name: kube-dns}
spec: {selector: {k8s-app: kube-dns}, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}]}
";

fn services(backend: Backend, families: Families) -> Result<()> {
    let world = world(&["x"])?;
    let text = if families == Families::V6 {
        SERVICES.replace("10.96.7.7", "fd00:10:96::77")
    } else {
        SERVICES.to_owned()
    };
    fs::write(world.path().join("services.yaml"), text)?;
    let (lab, applied) = up(
        &format!("svc{backend:?}{families:?}").to_lowercase(),
        world.path(),
        |options| {
            options.backend = backend;
            options.families = families;
        },
    )?;
    ensure!(applied.complete(), "{applied:?}");
    expect(
        &lab.0,
        "x/a         x/svc/web                80    TCP  denied
         x/a         x/svc/web                8080  TCP  allowed
         x/b         x/svc/web                8081  UDP  allowed
         x/a         x/svc/nobody             80    TCP  refused
         x/a         node/left                30080 TCP  allowed
         x/b         node/left                30080 TCP  allowed
         outside     node/left                30080 TCP  allowed
         outside     node/right               30080 TCP  allowed
         outside     node/right               7070  TCP  allowed
         outside     x/a                      80    TCP  allowed
         node/left   x/b                      80    TCP  allowed
         node/left   x/svc/web                8080  TCP  allowed
         x/a         x/host                   9100  TCP  allowed
         x/b         x/host                   9101  UDP  allowed
         x/a         node/left                9101  UDP  allowed
         x/a         x/b                      99    TCP  refused
         x/a         x/b                      99    UDP  refused
         x/a         x/b                      0     ICMP allowed
         x/a         outside                  443   TCP  allowed
         x/a         outside                  53    UDP  allowed
         x/a         kube-system/svc/kube-dns 53    UDP  allowed
         x/a         kube-system/svc/kube-dns 53    TCP  allowed",
    )?;
    let resolve = |name: &str| {
        lab.0
            .exec("x/a", &["vethwall-lab".into(), "resolve".into(), name.into()])
    };
    ensure!(resolve("web.x")? == 0);
    ensure!(resolve("web.x.svc.cluster.local")? == 0);
    ensure!(resolve("absent")? == 1);
    ensure!(
        lab.0.probe(&[Probe::new("x/a", "x/done", 80, "TCP")]).is_err(),
        "a finished pod has no address"
    );
    Ok(())
}

#[test]
fn services_node_ports_and_the_outside_work_over_vxlan() -> Result<()> {
    services(Backend::Vxlan, Families::V4)
}

#[test]
fn services_node_ports_and_the_outside_work_over_routes() -> Result<()> {
    services(Backend::HostGw, Families::Dual)
}

#[test]
fn services_node_ports_and_the_outside_work_in_ipv6() -> Result<()> {
    services(Backend::Vxlan, Families::V6)
}

#[test]
fn apply_changes_what_changed_and_nothing_else() -> Result<()> {
    let world = world(&["x", "y"])?;
    let (mut lab, _) = up("apply", world.path(), |_| {})?;
    let before = lab.0.state.pods.clone();
    let path = world.path().join("x.yaml");
    let text = fs::read_to_string(&path)?;
    // Another label for a, another port for b; y goes.
    let changed =
        text.replacen("app: web", "app: other", 1)
            .replacen("containerPort: 80}", "containerPort: 82}", 2);
    let changed = changed.replacen("containerPort: 82}", "containerPort: 80}", 1);
    fs::write(&path, &changed)?;
    fs::remove_file(world.path().join("y.yaml"))?;
    let applied = lab.0.apply(world.path(), &mut |_| {})?;
    ensure!(applied.complete(), "{applied:?}");
    let after = &lab.0.state.pods;
    ensure!(after.keys().collect::<Vec<_>>() == ["x/a", "x/b", "x/c"]);
    ensure!(
        after["x/a"].netns == before["x/a"].netns,
        "a label is no reason for another pod"
    );
    ensure!(after["x/a"].labels["app"] == "other");
    ensure!(
        after["x/b"].netns != before["x/b"].netns,
        "another spec is another pod"
    );
    ensure!(after["x/c"].netns == before["x/c"].netns);
    expect(
        &lab.0,
        "x/a x/b 82 TCP allowed\nx/c x/b 80 TCP refused\nx/b x/a 80 TCP allowed",
    )?;

    fs::write(&path, changed.replacen("nodeName", "nodeNam", 1))?;
    let applied = lab.0.apply(world.path(), &mut |_| {})?;
    let place: Vec<_> = applied
        .problems
        .iter()
        .map(|problem| (problem.file.as_path(), problem.line))
        .collect();
    ensure!(place == [(Path::new("x.yaml"), 9)], "{:?}", applied.problems);
    ensure!(lab.0.state.pods.len() == 3, "the last good objects stay");
    expect(&lab.0, "x/b x/a 80 TCP allowed")
}

/// Processes in a pid namespace, without those that only wait for the machine's init to collect them.
fn inside(namespace: &Path) -> Vec<String> {
    let pids = fs::read_dir("/proc").expect("/proc").flatten();
    pids.filter(|entry| fs::read_link(entry.path().join("ns/pid")).is_ok_and(|link| link == namespace))
        .filter(|entry| {
            fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| {
                stat.rsplit(')')
                    .next()
                    .is_some_and(|rest| !rest.trim().starts_with('Z'))
            })
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        ensure!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[test]
fn two_labs_side_by_side_do_not_meet_and_leave_nothing() -> Result<()> {
    let links = || {
        Command::new("ip")
            .args(["-o", "link"])
            .output()
            .map(|output| output.stdout)
    };
    let mounts = || fs::read_to_string("/proc/self/mountinfo");
    let before = (links()?, mounts()?);
    let (one, two) = (world(&["x"])?, world(&["x", "y"])?);
    let (one, _) = up("one", one.path(), |_| {})?;
    let (two, _) = up("two", two.path(), |_| {})?;
    expect(&one.0, "x/a x/b 80 TCP allowed")?;
    expect(&two.0, "x/a y/b 80 TCP allowed")?;
    let supervisor = one.0.state.supervisor;
    let namespace = fs::read_link(format!("/proc/{supervisor}/ns/pid"))?;
    ensure!(inside(&namespace).len() > 5, "holders and servers");
    let directory = State::directory(&one.0.state.name);
    drop(one);
    // The last of them is still being reaped when `down` has killed it.
    wait_for("processes are left", || inside(&namespace).is_empty())?;
    ensure!(!directory.exists());
    expect(&two.0, "x/a y/b 80 TCP allowed")?;
    drop(two);
    ensure!(
        (links()?, mounts()?) == before,
        "links or mounts of the machine changed"
    );
    Ok(())
}

#[test]
fn nothing_is_left_of_an_up_that_is_killed() -> Result<()> {
    let world = world(&["x", "y", "z"])?;
    for delay in [0, 40, 120, 250] {
        let name = format!("killed{delay}-{}", std::process::id());
        let mut child = Command::new(env!("CARGO_BIN_EXE_vethwall-lab"))
            .args(["up", "--engine", "none", "--name", &name, "--manifests"])
            .arg(world.path())
            .stderr(Stdio::null())
            .spawn()?;
        wait_for("the lab's state", || {
            State::load(&name).is_ok_and(|state| state.is_some())
        })?;
        let supervisor = State::load(&name)?.context("state")?.supervisor;
        let namespace = fs::read_link(format!("/proc/{supervisor}/ns/pid"))?;
        thread::sleep(Duration::from_millis(delay));
        child.kill()?;
        let ended = child.wait()?;
        if ended.success() {
            // It was faster than the delay.
            ensure!(Lab::down(&name)?);
        }
        wait_for("processes are left", || inside(&namespace).is_empty())?;
        wait_for("the lab's directory is left", || {
            !State::directory(&name).exists()
        })?;
    }
    Ok(())
}
