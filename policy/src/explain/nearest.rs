//! The smallest change that would allow a connection which a side denies.
//!
//! ```text
//! rules that nearly match ─► changes, smallest first ─ apply to a copy of the world, ask again ─► the first that helps
//! ```
//! Invariant: what is told helps. A change that does not, or that makes the other side deny, is never told.

use std::fmt;

use ipnet::IpNet;
use vethwall_common::Direction;

use super::{
    Connection, Explanation, PolicyAnswer, RuleAnswer, Side, SideReason, ends,
    fix::{Change, RuleRef, entry, like, only},
};
use crate::{
    model::{
        ClusterRule, Mode, NetworkPolicy, Operator, Peer, Peers, Pod, PolicyRef, Ports, Rule, RuleAction,
        canonical,
    },
    world::World,
};

/// So many changes are tried.
const TRIES: usize = 24;

/// So many rules that deny are gone through.
const STEPS: usize = 8;

/// What to do, one step after the other; of the changes of one step each is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fix(pub Vec<Vec<Change>>);

impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            let then = if i == 0 { "" } else { "; then " };
            f.write_str(then)?;
            for (i, change) in step.iter().enumerate() {
                let or = if i == 0 { "" } else { ", or " };
                write!(f, "{or}{change}")?;
            }
        }
        Ok(())
    }
}

/// Finds it for one side of an explanation of this connection in this world; none where the side does not deny, or
/// where nothing simple helps.
pub fn nearest(
    world: &World,
    connection: &Connection,
    told: &Explanation,
    direction: Direction,
) -> Option<Fix> {
    let mut steps = Vec::new();
    let (mut now, mut said) = (world.clone(), told.clone());
    while !said.side(direction).allowed && steps.len() < STEPS {
        let step = step(&mut now, connection, &said, direction)?;
        if let [change @ Change::RemoveRule { .. }] = &step[..] {
            change.apply(&mut now);
            said = connection.explain(&now);
            steps.push(step);
        } else {
            steps.push(step);
            return Some(Fix(steps));
        }
    }
    (said.side(direction).allowed && !steps.is_empty()).then_some(Fix(steps))
}

/// Changes of which each is enough, or a rule without which it goes on. The world is as it was.
fn step(
    world: &mut World,
    connection: &Connection,
    told: &Explanation,
    direction: Direction,
) -> Option<Vec<Change>> {
    let (src, dst) = ends::ends(world, &connection.src, &connection.dst, connection.family);
    let (subject, peer) = match direction {
        Direction::Egress => (&src, &dst),
        Direction::Ingress => (&dst, &src),
    };
    let search = Search {
        world,
        connection,
        side: told.side(direction),
        direction,
        subject: subject.pod?,
        peer,
    };
    let (candidates, denying) = (search.candidates(), search.denying());
    let mut tries = 0..TRIES;
    for alternatives in candidates {
        let mut good = Vec::new();
        for change in alternatives {
            if tries.next().is_some() && helps(world, connection, told, direction, &change) {
                good.push(change);
            }
        }
        if !good.is_empty() {
            return Some(good);
        }
    }
    denying.map(|rule| vec![Change::RemoveRule { rule }])
}

/// Makes the change, asks again, and takes it back: a world may be large, and its node has other things to do.
fn helps(
    world: &mut World,
    connection: &Connection,
    told: &Explanation,
    direction: Direction,
    change: &Change,
) -> bool {
    let Some(object) = change.object(world) else {
        // What is new can not be taken back everywhere: a namespace that goes keeps its last policies.
        let mut after = world.clone();
        return change.apply(&mut after) && allows(&after, connection, told, direction);
    };
    let good = change.apply(world) && allows(world, connection, told, direction);
    world.apply(object);
    good
}

/// This side, and the other one as before.
fn allows(world: &World, connection: &Connection, told: &Explanation, direction: Direction) -> bool {
    let again = connection.explain(world);
    let kept = |direction| again.side(direction).allowed || !told.side(direction).allowed;
    again.side(direction).allowed && kept(Direction::Ingress) && kept(Direction::Egress)
}

struct Search<'a> {
    world: &'a World,
    connection: &'a Connection,
    side: &'a Side,
    direction: Direction,
    subject: &'a Pod,
    peer: &'a ends::Found<'a>,
}

impl Search<'_> {
    /// Groups of changes of which each may be enough, the smallest first.
    fn candidates(&self) -> Vec<Vec<Change>> {
        if self.side.reason == SideReason::Denied {
            return self.accept();
        }
        let mut near: Vec<(u8, Vec<Change>)> = Vec::new();
        for (policy, answer) in self.isolating() {
            let rules = rules(policy, self.direction).iter().zip(&answer.rules);
            for (rule, told) in rules {
                near.extend(self.near(answer, rule, told));
            }
        }
        near.sort_by_key(|(size, _)| *size);
        let mut all: Vec<Vec<Change>> = near.into_iter().map(|(_, changes)| changes).collect();
        all.extend(self.more_rules());
        all
    }

    /// The NetworkPolicies in force that isolate the subject, and what was said of them.
    fn isolating(&self) -> impl Iterator<Item = (&NetworkPolicy, &PolicyAnswer)> {
        let in_force = |answer: &&PolicyAnswer| answer.mode == Mode::Enforce && answer.tier.is_none();
        self.side.policies.iter().filter(in_force).filter_map(|answer| {
            let mut policies = self.world.policies_of(&answer.policy.namespace);
            Some((policies.find(|policy| policy.name == answer.policy.name)?, answer))
        })
    }

    /// Changes to a rule of which one half matches, with their size.
    fn near(&self, answer: &PolicyAnswer, rule: &Rule, told: &RuleAnswer) -> Vec<(u8, Vec<Change>)> {
        let at = RuleRef {
            policy: answer.policy.clone(),
            direction: self.direction,
            rule: told.rule,
        };
        let (peers, ports) = (
            rule.peers == Peers::All || told.peers.iter().any(|entry| entry.matches),
            rule.ports == Ports::All || told.ports.iter().any(|entry| entry.matches),
        );
        if peers && !ports {
            let port = entry(self.connection.protocol, self.connection.port);
            let change = port.map(|port| Change::AddPort { rule: at, port });
            return change.map(|change| (1, vec![change])).into_iter().collect();
        }
        let Peers::Some(listed) = &rule.peers else {
            return Vec::new();
        };
        if peers || !ports {
            return Vec::new();
        }
        let mut found: Vec<(u8, Vec<Change>)> = Vec::new();
        for (i, peer) in listed.iter().enumerate() {
            if let Some(hole) = self.hole(peer) {
                found.push((
                    1,
                    vec![Change::RemoveExcept {
                        rule: at.clone(),
                        peer: i,
                        hole,
                    }],
                ));
            }
        }
        let add = |peer| Change::AddPeer {
            rule: at.clone(),
            peer,
        };
        let peer = self.pods().map(&add);
        for (label, replaces) in listed.iter().filter_map(|peer| self.label(peer)) {
            // A label that is there says who the pod is to others too: rather change the policy.
            let changes = match (replaces, peer.clone()) {
                (false, peer) => std::iter::once(label).chain(peer).collect(),
                (true, peer) => peer.into_iter().chain([label]).collect(),
            };
            found.push((2, changes));
        }
        found.extend(peer.map(|peer| (3, vec![peer])));
        found.extend(self.block().map(|block| (3, vec![add(block)])));
        found
    }

    /// The one hole that the address of the peer is in.
    fn hole(&self, peer: &Peer) -> Option<IpNet> {
        let (Peer::Block { except, .. }, Some(address)) = (peer, self.peer.address) else {
            return None;
        };
        let mut holes = except.iter().filter(|hole| canonical(**hole).contains(&address));
        match (holes.next(), holes.next()) {
            (Some(hole), None) => Some(*hole),
            _ => None,
        }
    }

    /// The label that a pod lacks for this peer, if it is only one, and whether the pod has that key.
    fn label(&self, peer: &Peer) -> Option<(Change, bool)> {
        let Peer::Pods { namespaces, pods } = peer else {
            return None;
        };
        let pod = self.peer.pod.filter(|pod| pod.is_peer())?;
        let inside = match namespaces {
            None => pod.namespace == self.subject.namespace,
            Some(selector) => selector.matches(&self.world.namespace_labels(&pod.namespace)),
        };
        let mut failing = pods
            .requirements()
            .iter()
            .filter(|requirement| !requirement.holds(&pod.labels));
        let (Some(failed), None, true) = (failing.next(), failing.next(), inside) else {
            return None;
        };
        let value = match &failed.operator {
            Operator::In(values) => Some(values.first()?.clone()),
            Operator::Exists => Some("true".to_owned()),
            Operator::NotIn(_) | Operator::DoesNotExist => None,
        };
        let change = Change::Label {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            key: failed.key.clone(),
            value,
        };
        Some((change, pod.labels.contains_key(&failed.key)))
    }

    /// The peer as an entry with selectors.
    fn pods(&self) -> Option<Peer> {
        let pod = self.peer.pod.filter(|pod| pod.is_peer())?;
        let own = pod.namespace == self.subject.namespace;
        Some(Peer::Pods {
            namespaces: (!own).then(|| only(&pod.namespace)),
            pods: like(&pod.labels),
        })
    }

    /// The peer's address as an entry.
    fn block(&self) -> Option<Peer> {
        self.peer.address.map(|address| Peer::Block {
            cidr: IpNet::from(address),
            except: Vec::new(),
        })
    }

    /// The ports of a rule that is to allow the packet.
    fn ports(&self) -> Ports {
        let port = entry(self.connection.protocol, self.connection.port);
        port.map_or(Ports::All, |port| Ports::Some(vec![port]))
    }

    /// A rule more, in a policy that is about this pod, or else in one of its own.
    fn more_rules(&self) -> Vec<Vec<Change>> {
        let rule = |peer| Rule {
            peers: Peers::Some(vec![peer]),
            ports: self.ports(),
        };
        let narrow = |policy: &&NetworkPolicy| !policy.pod_selector.requirements().is_empty();
        let policy = self.isolating().map(|(policy, _)| policy).find(narrow);
        let change = |peer| match policy {
            Some(policy) => Change::AddRule {
                policy: PolicyRef {
                    namespace: policy.namespace.clone(),
                    name: policy.name.clone(),
                },
                direction: self.direction,
                rule: rule(peer),
            },
            None => self.more_policy(rule(peer)),
        };
        [self.pods(), self.block()]
            .into_iter()
            .flatten()
            .map(|peer| vec![change(peer)])
            .collect()
    }

    fn more_policy(&self, rule: Rule) -> Change {
        let direction = self.direction;
        let (ingress, egress) = match direction {
            Direction::Ingress => (Some(vec![rule]), None),
            Direction::Egress => (None, Some(vec![rule])),
        };
        let taken = |name: &String| {
            let mut policies = self.world.policies_of(&self.subject.namespace);
            policies.any(|policy| policy.name == *name)
        };
        let mut name = format!("{}-allow", self.subject.name);
        while taken(&name) {
            name.push_str("-too");
        }
        Change::AddPolicy {
            policy: NetworkPolicy {
                namespace: self.subject.namespace.clone(),
                name,
                pod_selector: like(&self.subject.labels),
                ingress,
                egress,
                mode: Some(Mode::Enforce),
            },
            direction,
        }
    }

    /// What a ClusterNetworkPolicy needs that denies.
    fn accept(&self) -> Vec<Vec<Change>> {
        let Some(at) = self.denying() else {
            return Vec::new();
        };
        let pods = self.peer.pod.filter(|pod| pod.is_peer()).map(|pod| Peer::Pods {
            namespaces: Some(only(&pod.namespace)),
            pods: like(&pod.labels),
        });
        // Only egress rules can name addresses.
        let block = self.block().filter(|_| self.direction == Direction::Egress);
        let accept = |peer| Change::AcceptBefore {
            rule: at.clone(),
            accept: ClusterRule {
                name: None,
                action: RuleAction::Accept,
                peers: Peers::Some(vec![peer]),
                ports: self.ports(),
            },
        };
        let peers = pods.into_iter().chain(block);
        peers.map(|peer| vec![accept(peer)]).collect()
    }

    /// The rule of a ClusterNetworkPolicy that denies.
    fn denying(&self) -> Option<RuleRef> {
        let by = self.side.decided_by.as_ref()?;
        (self.side.reason == SideReason::Denied).then(|| RuleRef {
            policy: by.policy.clone(),
            direction: self.direction,
            rule: by.rule,
        })
    }
}

fn rules(policy: &NetworkPolicy, direction: Direction) -> &[Rule] {
    let rules = match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    };
    rules.as_deref().unwrap_or_default()
}
