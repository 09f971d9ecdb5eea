//! The story that every flannel admin lives, in ten steps, with real traffic.
//!
//! ```text
//! examples/demo/world + policies of the step ─► vethwall-lab apply ─► vethwall-lab probe ─► rows PASS or FAIL
//! ```
//!
//! The demo only calls the programs that a user has, `vethwall-lab` and `vethwall`, and says how. `make demo` prints
//! the rows; `make test` asserts them.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

mod table;

pub use table::{Row, table};

/// Runs the demo in a lab of this name; `say` gets what happens as it happens. The lab is gone afterwards.
pub fn run(lab: &str, say: &mut dyn FnMut(&str)) -> Result<Vec<Row>> {
    clean(lab)?;
    let mut demo = Demo::new(lab, say)?;
    let told = demo.tell();
    let down = demo.lab(&["down"]);
    told?;
    down.context("the lab could not be taken down")?;
    Ok(demo.rows)
}

/// Takes down the lab of a demo that was interrupted; there need be none.
pub fn clean(lab: &str) -> Result<()> {
    let output = Command::new(programs()?.join("vethwall-lab"))
        .args(["down", "--name", lab])
        .output()?;
    ensure!(
        output.status.success(),
        "lab {lab} is left: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

struct Demo<'a> {
    name: String,
    programs: PathBuf,
    examples: PathBuf,
    directory: tempfile::TempDir,
    policies: Vec<&'static str>,
    step: usize,
    rows: Vec<Row>,
    say: &'a mut dyn FnMut(&str),
}

const ALLOWED: &str = "allowed";
const DENIED: &str = "denied";

/// A try: from, to, port, protocol.
type Try = (&'static str, &'static str, u16, &'static str);

const CLIENT_SAME_NODE: Try = ("strangers/client", "shop/server-a", 8080, "TCP");
const CLIENT_OTHER_NODE: Try = ("strangers/client", "shop/server-b", 8080, "TCP");
const FRIEND_SAME_NODE: Try = ("friends/client", "shop/server-a", 8080, "TCP");
const FRIEND_OTHER_NODE: Try = ("friends/client", "shop/server-b", 8080, "TCP");
const FRIEND_B: Try = ("friends/client-b", "shop/server-b", 8080, "TCP");
const STRANGER_B: Try = ("strangers/client-b", "shop/server-b", 8080, "TCP");
const FRIEND_SERVICE: Try = ("friends/client", "shop/svc/server", 80, "TCP");
const STRANGER_SERVICE: Try = ("strangers/client", "shop/svc/server", 80, "TCP");
const UDP: Try = ("strangers/client", "shop/server-a", 9000, "UDP");
const FRIEND_UDP: Try = ("friends/client", "shop/server-a", 9000, "UDP");
const NODE: Try = ("node/node-a", "shop/server-a", 8080, "TCP");
const DNS: Try = ("friends/client", "kube-system/svc/kube-dns", 53, "UDP");
const OUTSIDE: Try = ("friends/client", "outside", 80, "TCP");

impl<'a> Demo<'a> {
    fn new(name: &str, say: &'a mut dyn FnMut(&str)) -> Result<Self> {
        let programs = programs()?;
        Ok(Self {
            name: name.to_owned(),
            programs,
            examples: Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/demo"),
            directory: tempfile::tempdir()?,
            policies: Vec::new(),
            step: 0,
            rows: Vec::new(),
            say,
        })
    }

    fn tell(&mut self) -> Result<()> {
        self.step("plain flannel: a deny-all policy is applied, and nothing happens");
        self.policies = vec!["deny-ingress"];
        self.write()?;
        let directory = self.directory.path().display().to_string();
        self.lab(&[
            "up",
            "--manifests",
            &directory,
            "--nodes",
            "2",
            "--engine",
            "none",
        ])?;
        self.expect(
            "the policy is decorative",
            ALLOWED,
            &[CLIENT_SAME_NODE, CLIENT_OTHER_NODE, UDP, STRANGER_SERVICE],
        )?;
        let before = self.sandboxes()?;

        self.step("vethwall starts beside the running pods");
        self.lab(&["engine", "start"])?;
        self.expect(
            "the same traffic times out",
            DENIED,
            &[CLIENT_SAME_NODE, CLIENT_OTHER_NODE, UDP, STRANGER_SERVICE],
        )?;
        let after = self.sandboxes()?;
        self.row(
            "no pod was restarted",
            (before != after).then(|| format!("before: {before}\nafter: {after}")),
        );

        self.step("deny-all ingress");
        self.expect(
            "nobody reaches the shop's servers, by TCP, UDP or Service, on either node",
            DENIED,
            &[
                FRIEND_SAME_NODE,
                FRIEND_OTHER_NODE,
                FRIEND_B,
                STRANGER_B,
                FRIEND_SERVICE,
                UDP,
            ],
        )?;
        self.expect(
            "pods that no policy selects are not touched",
            ALLOWED,
            &[("shop/client", "kube-system/dns", 53, "TCP")],
        )?;

        self.step("ingress is allowed from one namespace, by selector");
        self.policies.push("allow-friends");
        self.apply()?;
        self.expect(
            "friends pass, on both nodes",
            ALLOWED,
            &[FRIEND_SAME_NODE, FRIEND_OTHER_NODE, FRIEND_B],
        )?;
        self.expect(
            "strangers time out, on both nodes",
            DENIED,
            &[CLIENT_SAME_NODE, CLIENT_OTHER_NODE, STRANGER_B],
        )?;
        self.expect(
            "friends too, on a port that is not allowed",
            DENIED,
            &[FRIEND_UDP],
        )?;

        self.step("deny-all egress, DNS included");
        self.policies.push("deny-egress");
        self.apply()?;
        self.expect(
            "friends reach nothing",
            DENIED,
            &[FRIEND_SAME_NODE, FRIEND_OTHER_NODE, FRIEND_SERVICE, DNS, OUTSIDE],
        )?;
        self.resolves("names do not resolve", false)?;

        self.step("egress is allowed to DNS and the server only");
        self.policies.push("allow-dns-and-server");
        self.apply()?;
        self.resolves("names resolve", true)?;
        self.expect(
            "the server answers",
            ALLOWED,
            &[FRIEND_SAME_NODE, FRIEND_OTHER_NODE, DNS],
        )?;
        self.expect("the outside host is blocked", DENIED, &[OUTSIDE])?;

        self.step("same node, other node, Service, node");
        self.expect(
            "a Service in front of the pods: judged on the pod behind it",
            ALLOWED,
            &[FRIEND_SERVICE],
        )?;
        self.expect(
            "strangers time out through the Service",
            DENIED,
            &[STRANGER_SERVICE],
        )?;
        self.expect("the node's own probe passes", ALLOWED, &[NODE])?;

        self.step("the agent is killed");
        self.killed()?;

        self.step("the last policy is deleted");
        self.policies.clear();
        self.apply()?;
        self.expect(
            "everything is open again",
            ALLOWED,
            &[
                CLIENT_SAME_NODE,
                CLIENT_OTHER_NODE,
                FRIEND_SERVICE,
                STRANGER_SERVICE,
                UDP,
                DNS,
                OUTSIDE,
            ],
        )?;

        self.step("status, flows, explain");
        self.questions()
    }

    fn killed(&mut self) -> Result<()> {
        self.lab(&["engine", "stop", "--node", "node-a"])?;
        self.expect(
            "what was denied stays denied",
            DENIED,
            &[CLIENT_SAME_NODE, OUTSIDE],
        )?;
        self.expect("what was allowed stays allowed", ALLOWED, &[FRIEND_SAME_NODE])?;
        let late = self.directory.path().join("late.yaml");
        fs::write(&late, LATE_POD)?;
        let waiting = self.lab_output(&["apply", &self.directory.path().display().to_string()])?;
        let message = String::from_utf8_lossy(&waiting.stderr).into_owned();
        let readable = !waiting.status.success() && message.contains("vethwall") && message.contains("agent");
        self.row(
            "a new pod waits, with a readable error",
            (!readable).then(|| message.clone()),
        );
        if let Some(line) = message.lines().find(|line| line.contains("vethwall:")) {
            (self.say)(&format!("     {}", line.trim()));
        }
        self.lab(&["engine", "start", "--node", "node-a"])?;
        self.apply()?;
        self.expect(
            "the agent returns: the pod starts",
            ALLOWED,
            &[("friends/late", "shop/server-a", 8080, "TCP")],
        )?;
        self.expect(
            "and its policy holds",
            DENIED,
            &[("friends/late", "outside", 80, "TCP")],
        )
    }

    fn questions(&mut self) -> Result<()> {
        // The policies are back, so that there is something to ask about.
        self.policies = vec!["deny-ingress", "allow-friends"];
        self.apply()?;
        self.expect("a stranger is denied once more", DENIED, &[CLIENT_SAME_NODE])?;
        let status = self.ask(&["status"])?;
        self.row(
            "status: every pod is protected",
            failed_unless(&status, status.status.success()),
        );
        let flows = self.ask(&["flows", "--verdict", "denied", "--last", "3"])?;
        let named = String::from_utf8_lossy(&flows.stdout).contains("shop/deny-all-ingress");
        self.row(
            "flows name the policy that denied",
            failed_unless(&flows, flows.status.success() && named),
        );
        let explain = self.ask(&["explain", "strangers/client", "shop/server-a:8080"])?;
        let denied = explain.status.code() == Some(1);
        let text = String::from_utf8_lossy(&explain.stdout).into_owned();
        let named = text.contains("deny-all-ingress") && text.contains("server-allow-friends");
        self.row(
            "explain says why, and exits with 1",
            failed_unless(&explain, denied && named),
        );
        Ok(())
    }

    fn step(&mut self, title: &str) {
        self.step += 1;
        (self.say)(&format!("{:2}. {title}", self.step));
    }

    fn row(&mut self, claim: &str, failure: Option<String>) {
        let mark = if failure.is_none() { "ok" } else { "FAILED" };
        (self.say)(&format!("     {claim}: {mark}"));
        self.rows.push(Row {
            step: self.step,
            claim: claim.to_owned(),
            failure,
        });
    }

    fn expect(&mut self, claim: &str, result: &str, tries: &[Try]) -> Result<()> {
        let lines: Vec<String> = tries
            .iter()
            .map(|(from, to, port, protocol)| {
                json!({"from": from, "to": to, "port": port, "protocol": protocol}).to_string()
            })
            .collect();
        let answers = self.probe(&lines.join("\n"))?;
        ensure!(
            answers.len() == tries.len(),
            "{} probes, {} answers",
            tries.len(),
            answers.len()
        );
        let wrong: Vec<String> = answers
            .iter()
            .filter(|answer| answer["result"] != *result)
            .map(|answer| format!("{answer} instead of {result}"))
            .collect();
        self.row(claim, (!wrong.is_empty()).then(|| wrong.join("\n")));
        Ok(())
    }

    fn probe(&mut self, lines: &str) -> Result<Vec<Value>> {
        let mut child = self
            .command(&["probe", "--probes", "-", "-o", "json"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child
            .stdin
            .take()
            .context("no standard input")?
            .write_all(lines.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "probe: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout)?;
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
            .collect()
    }

    /// Names the network namespace of every pod of the first step: a restarted pod has another.
    fn sandboxes(&mut self) -> Result<String> {
        let mut all = Vec::new();
        for pod in [
            "shop/server-a",
            "shop/server-b",
            "strangers/client",
            "friends/client",
        ] {
            let output = self.lab_output(&["exec", pod, "--", "readlink", "/proc/self/ns/net"])?;
            ensure!(
                output.status.success(),
                "exec {pod}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            all.push(format!(
                "{pod} {}",
                String::from_utf8_lossy(&output.stdout).trim()
            ));
        }
        Ok(all.join(", "))
    }

    fn resolves(&mut self, claim: &str, expected: bool) -> Result<()> {
        let name = "server.shop.svc.cluster.local";
        let output = self.lab_output(&["exec", "friends/client", "--", "vethwall-lab", "resolve", name])?;
        let failure = (output.status.success() != expected).then(|| {
            format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )
        });
        self.row(claim, failure);
        Ok(())
    }

    /// Asks the agent of the first node.
    fn ask(&mut self, arguments: &[&str]) -> Result<Output> {
        let mut all = vec!["exec", "node/node-a", "--", "vethwall"];
        all.extend(arguments);
        (self.say)(&format!("\n$ vethwall {}", arguments.join(" ")));
        // Events are on their way to the agent for a moment.
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            let output = self.lab_output(&all)?;
            if !output.stdout.is_empty() || Instant::now() > deadline {
                (self.say)(String::from_utf8_lossy(&output.stdout).trim_end());
                return Ok(output);
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// The desired state: the world, and the policies of now.
    fn write(&self) -> Result<()> {
        let target = self.directory.path();
        fs::copy(
            self.examples.join("world/cluster.yaml"),
            target.join("cluster.yaml"),
        )?;
        for entry in fs::read_dir(target)? {
            let path = entry?.path();
            if path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("policy-"))
            {
                fs::remove_file(path)?;
            }
        }
        for policy in &self.policies {
            fs::copy(
                self.examples.join(format!("policies/{policy}.yaml")),
                target.join(format!("policy-{policy}.yaml")),
            )?;
        }
        Ok(())
    }

    fn apply(&mut self) -> Result<()> {
        self.write()?;
        self.lab(&["apply", &self.directory.path().display().to_string()])
    }

    fn lab(&mut self, arguments: &[&str]) -> Result<()> {
        let output = self.lab_output(arguments)?;
        if !output.status.success() {
            bail!(
                "vethwall-lab {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    fn lab_output(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments)
            .stdin(Stdio::null())
            .output()
            .context("vethwall-lab")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("vethwall-lab"));
        let (verb, rest) = arguments.split_at(1);
        let engine = verb == ["engine"];
        let (verb, rest) = if engine {
            arguments.split_at(2)
        } else {
            (verb, rest)
        };
        command.args(verb).args(["--name", &self.name]).args(rest);
        command
    }
}

fn failed_unless(output: &Output, good: bool) -> Option<String> {
    let text = || {
        format!(
            "exit {:?}\n{}{}",
            output.status.code(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    };
    (!good).then(text)
}

/// Where the workspace's programs are: beside this one, or one up from a test's.
fn programs() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let mut directories = this.ancestors().skip(1).take(2);
    let found = directories.find(|directory| directory.join("vethwall-lab").is_file());
    Ok(found
        .context("vethwall-lab is not built: run make build")?
        .to_owned())
}

const LATE_POD: &str = "\
apiVersion: v1
kind: Pod
metadata: {namespace: friends, name: late, labels: {app: client}}
spec:
  nodeName: node-a
  containers: [{name: client, image: client}]
";
