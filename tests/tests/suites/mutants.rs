//! Would the suites notice? Each mistake here is one that an implementation can make in reading objects; the worlds of
//! the suites are compiled with it, and at least one answer must then differ from what is expected.

use vethwall_common::protocol::{SCTP, TCP, UDP};
use vethwall_policy::model::{
    Mode, Object, Operator, Peer, Peers, PortMatch, Ports, RuleAction, Selector, Tier,
};

use super::{Scene, judge::Stage, scenes};

/// A mistake, done to one object.
type Mistake = fn(&mut Object);

/// Changes every selector of a policy.
fn selectors(object: &mut Object, change: impl Fn(&mut Selector)) {
    match object {
        Object::NetworkPolicy(policy) => change(&mut policy.pod_selector),
        Object::ClusterNetworkPolicy(policy) => {
            change(&mut policy.namespaces);
            change(&mut policy.pods);
        }
        Object::Namespace(_) | Object::Pod(_) | Object::Node(_) => {}
    }
    peers(object, |all| {
        for peer in all {
            match peer {
                Peer::Pods { namespaces, pods } => {
                    namespaces.iter_mut().for_each(&change);
                    change(pods);
                }
                Peer::Nodes(nodes) => change(nodes),
                Peer::Block { .. } | Peer::Nothing | Peer::Everything => {}
            }
        }
    });
}

/// Changes every requirement; one that is changed to nothing goes.
fn operators(object: &mut Object, change: impl Fn(&Operator) -> Option<Operator>) {
    selectors(object, |selector| {
        let kept = selector
            .requirements()
            .iter()
            .cloned()
            .filter_map(|mut requirement| {
                requirement.operator = change(&requirement.operator)?;
                Some(requirement)
            });
        *selector = Selector::new(kept);
    });
}

/// Changes peers and ports of every rule.
fn rules(object: &mut Object, change: impl Fn(&mut Peers, &mut Ports)) {
    match object {
        Object::NetworkPolicy(policy) => {
            let both = [&mut policy.ingress, &mut policy.egress]
                .into_iter()
                .flatten()
                .flatten();
            both.for_each(|rule| change(&mut rule.peers, &mut rule.ports));
        }
        Object::ClusterNetworkPolicy(policy) => {
            let both = policy.ingress.iter_mut().chain(&mut policy.egress);
            both.for_each(|rule| change(&mut rule.peers, &mut rule.ports));
        }
        Object::Namespace(_) | Object::Pod(_) | Object::Node(_) => {}
    }
}

fn peers(object: &mut Object, change: impl Fn(&mut Vec<Peer>)) {
    rules(object, |peers, _| {
        if let Peers::Some(peers) = peers {
            change(peers);
        }
    });
}

fn ports(object: &mut Object, change: impl Fn(&mut Vec<PortMatch>)) {
    rules(object, |_, ports| {
        if let Ports::Some(ports) = ports {
            change(ports);
        }
    });
}

fn network(object: &mut Object, change: impl Fn(&mut vethwall_policy::model::NetworkPolicy)) {
    if let Object::NetworkPolicy(policy) = object {
        change(policy);
    }
}

fn cluster(object: &mut Object, change: impl Fn(&mut vethwall_policy::model::ClusterNetworkPolicy)) {
    if let Object::ClusterNetworkPolicy(policy) = object {
        change(policy);
    }
}

fn actions(object: &mut Object, from: RuleAction, to: RuleAction) {
    cluster(object, |policy| {
        let rules = policy.ingress.iter_mut().chain(&mut policy.egress);
        rules
            .filter(|rule| rule.action == from)
            .for_each(|rule| rule.action = to);
    });
}

fn pod(object: &mut Object, change: impl Fn(&mut vethwall_policy::model::Pod)) {
    if let Object::Pod(pod) = object {
        change(pod);
    }
}

const MISTAKES: &[(&str, Mistake)] = &[
    ("NotIn needs the key", |o| {
        operators(o, |operator| match operator {
            Operator::NotIn(_) => Some(Operator::Exists),
            other @ (Operator::In(_) | Operator::Exists | Operator::DoesNotExist) => Some(other.clone()),
        });
    }),
    ("Exists is not looked at", |o| {
        operators(o, |operator| {
            (*operator != Operator::Exists).then(|| operator.clone())
        })
    }),
    ("DoesNotExist is not looked at", |o| {
        operators(o, |operator| {
            (*operator != Operator::DoesNotExist).then(|| operator.clone())
        });
    }),
    ("an empty value is no label", |o| {
        pod(o, |pod| pod.labels.retain(|_, value| !value.is_empty()))
    }),
    ("one requirement is enough", |o| {
        selectors(o, |selector| {
            *selector = Selector::new(selector.requirements().first().cloned())
        });
    }),
    ("a pod selector alone means all namespaces", |o| {
        peers(o, |all| {
            for peer in all {
                if let Peer::Pods { namespaces, .. } = peer {
                    namespaces.get_or_insert(Selector::everything());
                }
            }
        });
    }),
    ("selectors of one entry are alternatives", |o| {
        peers(o, |all| {
            let split = all.iter().flat_map(|peer| {
                if let Peer::Pods {
                    namespaces: Some(namespaces),
                    pods,
                } = peer
                    && *pods != Selector::everything()
                {
                    let (namespaces, pods) = (namespaces.clone(), pods.clone());
                    vec![
                        Peer::Pods {
                            namespaces: Some(namespaces),
                            pods: Selector::everything(),
                        },
                        Peer::Pods {
                            namespaces: None,
                            pods,
                        },
                    ]
                } else {
                    vec![peer.clone()]
                }
            });
            *all = split.collect();
        });
    }),
    ("the second peer is lost", |o| peers(o, |all| all.truncate(1))),
    ("the second port is lost", |o| ports(o, |all| all.truncate(1))),
    ("the second rule is lost", |o| {
        network(o, |policy| {
            [&mut policy.ingress, &mut policy.egress]
                .into_iter()
                .flatten()
                .for_each(|r| r.truncate(1))
        });
    }),
    ("no peers mean all pods", |o| {
        rules(o, |peers, _| {
            if *peers == Peers::All {
                let (namespaces, pods) = (Some(Selector::everything()), Selector::everything());
                *peers = Peers::Some(vec![Peer::Pods { namespaces, pods }]);
            }
        });
    }),
    ("no ports mean TCP, UDP and SCTP", |o| {
        rules(o, |_, ports| {
            if *ports == Ports::All {
                *ports = Ports::Some([TCP, UDP, SCTP].map(PortMatch::Protocol).to_vec());
            }
        });
    }),
    ("an except is not looked at", |o| {
        peers(o, |all| {
            for peer in all {
                if let Peer::Block { except, .. } = peer {
                    except.clear();
                }
            }
        });
    }),
    ("only the first except counts", |o| {
        peers(o, |all| {
            for peer in all {
                if let Peer::Block { except, .. } = peer {
                    except.truncate(1);
                }
            }
        });
    }),
    ("blocks of IPv6 are lost", |o| {
        peers(o, |all| {
            all.retain(|peer| {
                !matches!(
                    peer,
                    Peer::Block {
                        cidr: ipnet::IpNet::V6(_),
                        ..
                    }
                )
            })
        });
    }),
    ("pods have no IPv6 address", |o| {
        pod(o, |pod| pod.addresses.truncate(1))
    }),
    ("an invalid peer is everybody", |o| {
        peers(o, |all| {
            all.iter_mut()
                .filter(|peer| **peer == Peer::Nothing)
                .for_each(|peer| *peer = Peer::Everything)
        });
    }),
    ("an unknown peer of Deny or Pass is nobody", |o| {
        peers(o, |all| {
            all.iter_mut()
                .filter(|peer| **peer == Peer::Everything)
                .for_each(|peer| *peer = Peer::Nothing)
        });
    }),
    ("an unknown protocol of Deny is nothing", |o| {
        ports(o, |all| {
            let unknown = all.iter_mut().filter(|port| **port == PortMatch::Everything);
            unknown.for_each(|port| *port = PortMatch::Nothing);
        });
    }),
    ("an invalid port is every port of TCP", |o| {
        ports(o, |all| {
            let invalid = all.iter_mut().filter(|port| **port == PortMatch::Nothing);
            invalid.for_each(|port| *port = PortMatch::Protocol(TCP));
        });
    }),
    ("a range is its first port", |o| {
        ports(o, |all| {
            for port in all {
                if let PortMatch::Range { first, last, .. } = port {
                    *last = *first;
                }
            }
        });
    }),
    ("a range lacks its last port", |o| {
        ports(o, |all| {
            for port in all {
                if let PortMatch::Range { first, last, .. } = port {
                    *last = (*last - 1).max(*first);
                }
            }
        });
    }),
    ("every port is TCP", |o| {
        ports(o, |all| {
            for port in all {
                if let PortMatch::Range { protocol, .. } | PortMatch::Protocol(protocol) = port {
                    *protocol = TCP;
                }
            }
        });
    }),
    ("a protocol alone is everything", |o| {
        rules(o, |_, ports| {
            if matches!(ports, Ports::Some(all) if matches!(all[..], [PortMatch::Protocol(_)])) {
                *ports = Ports::All;
            }
        });
    }),
    ("names of ports have no protocol", |o| {
        ports(o, |all| {
            let split = all.iter().flat_map(|port| {
                if let PortMatch::Named { name, .. } = port {
                    [TCP, UDP, SCTP]
                        .map(|protocol| PortMatch::Named {
                            protocol,
                            name: name.clone(),
                        })
                        .to_vec()
                } else {
                    vec![port.clone()]
                }
            });
            *all = split.collect();
        });
    }),
    ("names of ports are not known", |o| {
        ports(o, |all| {
            let named = all
                .iter_mut()
                .filter(|port| matches!(port, PortMatch::Named { .. }));
            named.for_each(|port| *port = PortMatch::Nothing);
        });
    }),
    ("every policy isolates for ingress", |o| {
        network(o, |policy| _ = policy.ingress.get_or_insert_default())
    }),
    ("no rules for egress do not isolate", |o| {
        network(o, |policy| {
            if policy.egress.as_ref().is_some_and(Vec::is_empty) {
                policy.egress = None;
            }
        });
    }),
    ("a policy selects every pod of its namespace", |o| {
        network(o, |policy| policy.pod_selector = Selector::everything());
    }),
    ("pods that ended are pods", |o| pod(o, |pod| pod.finished = false)),
    ("pods on the host's network are pods", |o| {
        pod(o, |pod| pod.host_network = false)
    }),
    ("audited policies are in force", |o| {
        network(o, |policy| policy.mode = Some(Mode::Enforce));
        cluster(o, |policy| policy.mode = Some(Mode::Enforce));
    }),
    ("Pass accepts", |o| {
        actions(o, RuleAction::Pass, RuleAction::Accept)
    }),
    ("Pass denies", |o| actions(o, RuleAction::Pass, RuleAction::Deny)),
    ("Accept passes", |o| {
        actions(o, RuleAction::Accept, RuleAction::Pass)
    }),
    ("every tier is Admin", |o| {
        cluster(o, |policy| policy.tier = Tier::Admin)
    }),
    ("every tier is Baseline", |o| {
        cluster(o, |policy| policy.tier = Tier::Baseline)
    }),
    ("the highest priority number goes first", |o| {
        cluster(o, |policy| policy.priority = 1000 - policy.priority)
    }),
    ("the last rule goes first", |o| {
        cluster(o, |policy| {
            policy.ingress.reverse();
            policy.egress.reverse();
        });
    }),
    ("a subject is whole namespaces", |o| {
        cluster(o, |policy| policy.pods = Selector::everything())
    }),
    ("a subject is pods of all namespaces", |o| {
        cluster(o, |policy| policy.namespaces = Selector::everything())
    }),
    ("nodes are nobody", |o| {
        peers(o, |all| all.retain(|peer| !matches!(peer, Peer::Nodes(_))))
    }),
];

/// Whether an answer differs from the expected one when every object is read with the mistake.
fn noticed(scenes: &[Scene], mistake: Mistake) -> bool {
    scenes.iter().any(|scene| {
        let mut objects = scene.objects.clone();
        objects.iter_mut().for_each(mistake);
        if objects == scene.objects {
            return false;
        }
        let stage = Stage::new(objects, scene.oracle.clone());
        let mut questions = scene.questions.iter();
        questions.any(|question| stage.looked_up(question) != question.allowed)
    })
}

#[test]
fn every_mistake_is_noticed() {
    let suites = ["gaps", "cnp", "netpol"].map(|suite| scenes(suite).1);
    let (mut unnoticed, mut by_own_only) = (Vec::new(), 0);
    for (name, mistake) in MISTAKES {
        let [own, cluster, network] = suites.each_ref().map(|scenes| noticed(scenes, *mistake));
        by_own_only += usize::from(own && !cluster && !network);
        if !own {
            unnoticed.push(*name);
        }
    }
    assert_eq!(unnoticed, [""; 0], "nothing in gaps differs");
    println!(
        "{} mistakes, all noticed, {by_own_only} of them by `gaps` only",
        MISTAKES.len()
    );
}
