//! Asking the container runtime whose an interface is, where libcni's result cache does not tell: it is missing, a result in
//! it can not be used, or the runtime keeps it elsewhere.
//!
//! ```text
//! stranger on the bridge ─► thread "runtime" ─ CRI ─► Input::Sandboxes ─► the pod with an interface of that name
//! ```
//!
//! Only while there is a stranger; a node that becomes ready waits for the answer, so that no pod that runs is taken for
//! somebody else's.

use std::{
    sync::mpsc::{self, Sender},
    thread,
    time::{Duration, Instant},
};

use vethwall_datapath::surroundings;

use super::{Input, Interface, existing::mac, thread::Node};
use crate::{
    api::status::FoundBy,
    cri::{Client, Socket, client, view::Sandbox},
};

/// Between two questions: as long as the youngest stranger is there, within these.
const PAUSE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// Starts the thread; what is returned makes it ask. It answers each question with an input.
pub fn spawn(socket: Socket, inputs: Sender<Input>) -> std::io::Result<Sender<()>> {
    let mut client = Client::new(socket)?;
    let (ask, asked) = mpsc::channel();
    thread::Builder::new().name("runtime".to_owned()).spawn(move || {
        while asked.recv().is_ok() {
            let answer = client.sandboxes().unwrap_or_else(|| Ok(Vec::new()));
            if inputs.send(Input::Sandboxes(answer)).is_err() {
                return;
            }
        }
    })?;
    Ok(ask)
}

impl Node {
    pub(super) fn ask_runtime(&mut self) {
        let Some(age) = self.strangers.youngest_on_the_bridge() else {
            return;
        };
        let pause = age.clamp(PAUSE[0], PAUSE[1]);
        let due = self.asked.is_none_or(|asked| asked.elapsed() >= pause);
        let Some(ask) = self.watched.runtime.as_ref().filter(|_| due && !self.asking) else {
            return;
        };
        if ask.send(()).is_ok() {
            (self.asked, self.asking) = (Some(Instant::now()), true);
        }
    }

    /// What the runtime says. True where a pod may have been found, or the node has waited for it.
    pub(super) fn take_sandboxes(&mut self, answer: Result<Vec<Sandbox>, client::Error>) -> bool {
        self.asking = false;
        self.note(
            "container runtime",
            answer.map_err(|e| e.to_string()),
            |node, sandboxes| {
                let all = surroundings::interfaces().map_err(|error| error.chain());
                node.note("node's interfaces", all, |node, all| {
                    let found = sandboxes.into_iter().filter_map(|sandbox| of(sandbox, &all));
                    node.take_found(FoundBy::Runtime, found.collect());
                });
            },
        );
        true
    }
}

/// The pod's interface, if exactly one that the runtime names is a veth that is there.
fn of(sandbox: Sandbox, all: &[surroundings::Interface]) -> Option<Interface> {
    let named =
        |link: &&surroundings::Interface| link.is_veth() && sandbox.host_interfaces.contains(&link.name);
    let mut veths = all.iter().filter(named);
    let (Some(veth), None) = (veths.next(), veths.next()) else {
        return None;
    };
    Some(Interface {
        host_ifname: veth.name.clone(),
        ifindex: veth.ifindex,
        mac: mac(&sandbox.mac)?,
        container_id: sandbox.id,
        ifname: "eth0".to_owned(),
        addresses: sandbox.addresses,
        namespace: sandbox.namespace,
        pod: sandbox.pod,
        uid: sandbox.uid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(ifindex: u32, name: &str, kind: &str) -> surroundings::Interface {
        surroundings::Interface {
            ifindex,
            name: name.to_owned(),
            kind: Some(kind.to_owned()),
            master: None,
            vxlan_port: None,
        }
    }

    #[test]
    fn the_runtimes_names_lead_to_one_veth_or_to_none() {
        let sandbox = Sandbox {
            id: "c".into(),
            pod: "p".into(),
            host_interfaces: vec!["cni0".into(), "veth1".into()],
            mac: "0a:00:00:00:00:03".into(),
            addresses: vec!["10.244.0.2".parse().unwrap()],
            ..Sandbox::default()
        };
        let mut all = vec![
            link(4, "cni0", "bridge"),
            link(7, "veth1", "veth"),
            link(8, "veth2", "veth"),
        ];
        let found = of(sandbox.clone(), &all).unwrap();
        assert_eq!(
            (found.ifindex, found.host_ifname.as_str(), found.pod.as_str()),
            (7, "veth1", "p")
        );
        let nameless = Sandbox {
            mac: String::new(),
            ..sandbox.clone()
        };
        assert_eq!(of(nameless, &all), None);
        // In the node's network, or gone.
        assert_eq!(of(Sandbox::default(), &all), None);
        all[0].kind = Some("veth".to_owned());
        assert_eq!(of(sandbox, &all), None, "two veths are nobody's for certain");
    }
}
