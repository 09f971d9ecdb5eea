//! What a node says of itself, to a process that has no rights there: it reads files and lists interfaces, and what it finds is
//! judged by the code by which an agent judges it.
//!
//! The kernel is not tried: loading a program takes rights that a look must not need. What the programs need of it follows from its
//! version, which the API server tells; BTF is not among it.

use std::path::Path;

use vethwall_cni::conflist;
use vethwall_datapath::{
    Pins,
    surroundings::{Interface, interfaces},
};

use super::{Finding, Outcome};
use crate::{
    api::{chain::ChainMode, status::Problem},
    chain::{
        files, places,
        plan::{self, Abilities, Listing, Standing},
    },
    config::Config,
    node::{flannel, problems, surroundings},
};

/// What is looked at: a node that was looked at has an answer to each.
pub const CHECKS: [&str; 3] = [BPFFS, BRIDGE, NETWORKS];
const BPFFS: &str = "bpffs";
const BRIDGE: &str = "bridge";
const NETWORKS: &str = "networks";

/// Looks at this node, in its network namespace. Of its files it needs the BPF file system and the network lists, where the node
/// has them.
pub fn look() -> Vec<Finding> {
    let config = Config::default();
    let lists = places::detect(Path::new("/")).conf;
    let mut findings = vec![bpffs(&config.bpffs)];
    let found = interfaces()
        .map_err(|error| error.chain())
        .and_then(|interfaces| {
            let families = flannel::families(&config.bridge).map_err(|error| error.to_string())?;
            Ok((interfaces, families))
        });
    match found {
        Ok((interfaces, families)) => findings.extend(bridge(
            &config.bridge,
            &interfaces,
            families,
            surroundings::bridge_nf(),
        )),
        Err(why) => findings.push(Finding::new(
            BRIDGE,
            Outcome::Unknown,
            format!("the node's interfaces can not be listed: {why}"),
        )),
    }
    findings.push(match files::read(&lists) {
        Ok(listing) => networks(&lists, &listing),
        Err(error) => Finding::new(NETWORKS, Outcome::Unknown, error.to_string()),
    });
    findings
}

/// A container has a `/sys` of its own: what is mounted there is the node's only where it was put there from the node.
fn bpffs(at: &Path) -> Finding {
    match Pins::new(at).mounted() {
        Ok(()) => Finding::new(
            BPFFS,
            Outcome::Ok,
            format!("a BPF file system is at {}", at.display()),
        ),
        Err(error) => Finding::new(BPFFS, Outcome::Fail, error.chain()),
    }
}

fn bridge(
    name: &str,
    interfaces: &[Interface],
    families: [bool; 2],
    bridge_nf: [Option<bool>; 2],
) -> Vec<Finding> {
    let told = |problem: Problem| Finding {
        hint: problem.hint,
        ..Finding::new(
            BRIDGE,
            Outcome::Fail,
            format!("{} ({})", problem.message, problem.code),
        )
    };
    let mut problems = problems::untranslated(bridge_nf, families);
    problems.extend(surroundings::is_ipvs(interfaces).then(problems::of_ipvs));
    let mut findings: Vec<Finding> = problems.into_iter().map(told).collect();
    match interfaces.iter().find(|interface| interface.name == name) {
        None => findings.push(
            Finding::new(BRIDGE, Outcome::Warn, format!("there is no {name}"))
                .hint("flannel makes it for a node's first pod; a bridge of another name is told by --set config.bridge=NAME"),
        ),
        Some(found) if found.kind.as_deref() != Some("bridge") => {
            findings.push(
                Finding::new(BRIDGE, Outcome::Fail, format!("{name} is no bridge"))
                    .hint("flannel's bridge of another name is told by --set config.bridge=NAME"),
            );
        }
        Some(_) if findings.is_empty() => findings.push(Finding::new(
            BRIDGE,
            Outcome::Ok,
            format!("{name} is a bridge, and br_netfilter has Services translated on it"),
        )),
        Some(_) => {}
    }
    findings
}

/// A runtime that tells nothing of itself is assumed: its socket would be the right to everything on the node.
fn networks(directory: &Path, listing: &Listing) -> Finding {
    let entry = conflist::default_entry();
    let plan = plan::chain(ChainMode::Auto, Abilities::default(), listing, &entry, false);
    let at = directory.display();
    let fails = |why: String| Finding::new(NETWORKS, Outcome::Fail, format!("{why} (in {at})"));
    match plan.standing {
        // What there is to take out names us.
        Standing::Chained(_) if !plan::unchain(listing).0.is_empty() => {
            Finding::new(NETWORKS, Outcome::Ok, format!("flannel's list in {at} has vethwall in it already"))
        }
        Standing::Chained(file) => Finding::new(
            NETWORKS,
            Outcome::Ok,
            format!("flannel's list is the first in {at}; vethwall will be in it by {}", file.display()),
        ),
        Standing::Waiting(why) => fails(why).hint(
            "flannel writes it when it starts; a runtime that reads another directory is told by --set config.cniConfDir=DIR",
        ),
        Standing::Foreign(why) => {
            fails(why).hint("the first list is the runtime's choice: take it away if flannel is the network, or see docs/migrating.md")
        }
        Standing::Impossible(why) => fails(why).hint("see CNI003 in docs/problems.md"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLANNEL: &str =
        r#"{"name": "cbr0", "cniVersion": "0.3.1", "plugins": [{"type": "flannel"}, {"type": "portmap"}]}"#;

    fn interface(name: &str, kind: &str) -> Interface {
        Interface {
            ifindex: 5,
            name: name.to_owned(),
            kind: Some(kind.to_owned()),
            master: None,
            vxlan_port: None,
        }
    }

    fn outcomes(findings: &[Finding]) -> Vec<Outcome> {
        findings.iter().map(|finding| finding.outcome).collect()
    }

    #[test]
    fn every_check_is_answered_wherever_it_looks() {
        let findings = look();
        for check in CHECKS {
            assert!(findings.iter().any(|finding| finding.check == check), "{check}");
        }
    }

    #[test]
    fn a_directory_that_is_no_bpffs_fails() {
        let directory = tempfile::tempdir().unwrap();
        let found = bpffs(directory.path());
        assert_eq!(found.outcome, Outcome::Fail);
        assert!(found.message.contains("mount -t bpf"), "{found:?}");
        assert_eq!(bpffs(&directory.path().join("absent")).outcome, Outcome::Fail);
    }

    #[test]
    fn the_bridge_is_there_and_translates() {
        let cni0 = [interface("cni0", "bridge")];
        let both = [Some(true); 2];
        let found = |interfaces: &[Interface], families, nf| bridge("cni0", interfaces, families, nf);
        assert_eq!(outcomes(&found(&cni0, [true, false], both)), [Outcome::Ok]);
        assert_eq!(outcomes(&found(&[], [false; 2], both)), [Outcome::Warn]);
        let veth = [interface("cni0", "veth")];
        assert_eq!(outcomes(&found(&veth, [true, false], both)), [Outcome::Fail]);
        let unloaded = found(&cni0, [true, false], [None; 2]);
        assert!(unloaded[0].message.contains("(KRN002)"), "{unloaded:?}");
        assert_eq!(unloaded[0].hint.as_deref(), Some("modprobe br_netfilter"));
        let only4 = [Some(true), Some(false)];
        assert_eq!(outcomes(&found(&cni0, [true, false], only4)), [Outcome::Ok]);
        assert_eq!(outcomes(&found(&cni0, [true, true], only4)), [Outcome::Fail]);
        let ipvs = [interface("cni0", "bridge"), interface("kube-ipvs0", "dummy")];
        assert!(found(&ipvs, [true, false], both)[0].message.contains("KRN008"));
    }

    #[test]
    fn flannels_list_is_first_or_names_us_or_fails() {
        let found = |lists: &[(&str, &str)]| {
            let lists = lists.iter();
            let lists = lists.map(|(name, text)| ((*name).to_owned(), Ok((*text).to_owned())));
            let listing = Listing {
                lists: lists.collect(),
                ..Listing::default()
            };
            let found = networks(Path::new("/etc/cni/net.d"), &listing);
            (found.outcome, found.message)
        };
        let flannel = ("10-flannel.conflist", FLANNEL);
        let (outcome, message) = found(&[flannel]);
        assert_eq!(outcome, Outcome::Ok);
        assert!(message.ends_with("by 05-vethwall.conflist"), "{message}");
        let ours = conflist::insert(FLANNEL, &conflist::default_entry()).unwrap();
        let (outcome, message) = found(&[flannel, ("05-vethwall.conflist", &ours)]);
        assert_eq!(outcome, Outcome::Ok);
        assert!(message.contains("already"), "{message}");
        assert_eq!(found(&[]).0, Outcome::Fail);
        let calico = r#"{"name": "k8s", "plugins": [{"type": "calico"}]}"#;
        let (outcome, message) = found(&[("05-calico.conflist", calico), flannel]);
        assert_eq!(outcome, Outcome::Fail);
        assert!(message.contains("05-calico.conflist with calico"), "{message}");
        assert_eq!(found(&[("10-flannel.conflist", "{")]).0, Outcome::Fail);
    }
}
