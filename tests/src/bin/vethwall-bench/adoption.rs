//! How long pods that run already take to be taken over, with connections and without.

use std::{
    fs,
    net::UdpSocket,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use vethwall_tests::sandbox::{command, inside, ip};

use crate::cni::{node, start_agent, status, uid};

/// Pods that run before the agent does.
pub(crate) const RUNNING: usize = 100;
/// Connections that the node tracks, all of pods: as many as the programs have room for, nearly.
pub(crate) const CONNECTIONS: usize = 50_000;
/// Ports of the node's end for one pod.
const PORTS: std::ops::Range<u16> = 20_000..30_000;
const WAIT: Duration = Duration::from_secs(5);

/// From the start of the agent until all pods that run are enforced.
pub(crate) fn measure(hook: &str, connections: usize) -> Result<f64> {
    let node = node()?;
    ip("link add cni0 type bridge")?;
    ip("addr add 10.244.1.1/24 dev cni0")?;
    ip("link set cni0 up")?;
    let cache = Path::new("/var/lib/cni/results");
    fs::create_dir_all(cache)?;
    for pod in 0..RUNNING {
        let (host, mac) = (format!("veth{pod}"), format!("0a:58:0a:f4:01:{:02x}", pod + 2));
        let address = address(pod);
        ip(&format!("netns add pod{pod}"))?;
        ip(&format!(
            "link add {host} type veth peer name eth0 address {mac} netns pod{pod}"
        ))?;
        ip(&format!("link set {host} master cni0 up"))?;
        ip(&format!("-n pod{pod} addr add {address}/24 dev eth0"))?;
        ip(&format!("-n pod{pod} link set eth0 up"))?;
        let cached = json!({
            "kind": "cniCacheV1", "containerId": format!("c{pod}"), "config": "e30=", "ifName": "eth0", "networkName": "cbr0",
            "cniArgs": [["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", format!("pod{pod}")], ["K8S_POD_UID", uid(&format!("pod{pod}"))]],
            "result": {"cniVersion": "0.3.1",
                "interfaces": [{"name": host, "mac": "0a:00:00:00:00:01"},
                    {"name": "eth0", "mac": mac, "sandbox": format!("/run/netns/pod{pod}")}],
                "ips": [{"version": "4", "interface": 1, "address": format!("{address}/24")}]},
        });
        fs::write(cache.join(format!("cbr0-c{pod}-eth0")), cached.to_string())?;
    }
    if connections > 0 {
        connect(connections)?;
    }
    let time = start_agent(&node, hook)?;
    let status = status()?;
    let enforced = status["endpoints"].as_array().map_or(0, |all| {
        all.iter().filter(|one| one["state"] == "enforcing").count()
    });
    ensure!(enforced == RUNNING, "{enforced} of {RUNNING} pods are enforced");
    let known = status["connections"]["seeded"].as_u64().unwrap_or_default();
    ensure!(
        known >= connections as u64,
        "{known} of {connections} connections are known"
    );
    Ok(time)
}

fn address(pod: usize) -> String {
    format!("10.244.1.{}", pod + 2)
}

/// Makes the node ask pods, each time from another port, and the pods answer.
fn connect(connections: usize) -> Result<()> {
    // With the first rule that asks about connections they are tracked.
    let rule = "-A INPUT -m conntrack --ctstate INVALID -j DROP";
    command("iptables", &rule.split(' ').collect::<Vec<_>>())?;
    for pod in 0..connections.div_ceil(PORTS.len()) {
        let server = inside(&format!("pod{pod}"), || UdpSocket::bind("0.0.0.0:9000"))?;
        server.set_read_timeout(Some(Duration::from_millis(100)))?;
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut buffer = [0; 16];
                while !over.load(Ordering::Relaxed) {
                    if let Ok((length, from)) = server.recv_from(&mut buffer) {
                        // An answer that is lost is missed where it is waited for.
                        let _sent = server.send_to(&buffer[..length], from);
                    }
                }
            });
            let asked = PORTS.into_iter().try_for_each(|port| ask(pod, port));
            over.store(true, Ordering::Relaxed);
            asked
        })?;
    }
    let count = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count")?;
    let count: usize = count.trim().parse()?;
    ensure!(
        count >= connections,
        "{count} of {connections} connections are tracked"
    );
    Ok(())
}

fn ask(pod: usize, port: u16) -> Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", port))?;
    socket.set_read_timeout(Some(WAIT))?;
    socket.connect((address(pod), 9000))?;
    socket.send(b"?")?;
    socket
        .recv(&mut [0; 16])
        .with_context(|| format!("pod{pod} does not answer"))?;
    Ok(())
}
