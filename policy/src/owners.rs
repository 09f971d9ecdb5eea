//! Who owns which address, and what is known of the addresses that nobody owns.
//!
//! An address belongs, in this order, to a node that lists it, to a local interface, to the pods whose status lists it.
//! Where several claim it, all of them may own it ([`crate::signature`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::{IpAdd as _, IpNet, Ipv4Net, Ipv6Net};
use vethwall_common::{
    address::{Addr, Prefix},
    identity::{AddressEntry, PrefixEntry},
};

use crate::{
    matched::Matched,
    model::{Endpoint, Pod},
    signature::Signature,
    term::Answers,
    terms::Terms,
    world::World,
};

/// An address with an entry of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// [`AddressEntry`] flags.
    pub(crate) flags: u32,
    /// The interface, if it is a local pod's.
    pub(crate) ifindex: u32,
    /// What it answers.
    pub(crate) signature: Signature,
}

/// Whether it matters which addresses may belong to pods that are not known: only a rule that denies pods, or passes
/// them on, takes something from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strangers {
    /// It does not: nothing is allowed to them in any case.
    Ignored,
    /// Addresses of the pods' networks that no known pod has.
    InPodNetworks,
    /// Any address without an entry.
    Anywhere,
}

/// The addresses of one world.
pub(crate) struct Addresses<'w> {
    world: &'w World,
    terms: &'w Terms,
    strangers: Strangers,
    /// What pods answered when they were asked last, in this world and with these terms.
    matched: Option<&'w Matched>,
    /// What nodes answer, by address; of several nodes each.
    nodes: BTreeMap<IpAddr, Vec<Answers>>,
    own: BTreeSet<IpAddr>,
    local: BTreeMap<IpAddr, Vec<&'w Endpoint>>,
}

impl<'w> Addresses<'w> {
    pub(crate) fn new(world: &'w World, terms: &'w Terms, strangers: Strangers) -> Self {
        let mut nodes: BTreeMap<IpAddr, Vec<Answers>> = BTreeMap::new();
        for node in world.nodes() {
            let answers = terms.of_node(&node.labels);
            for address in node.addresses.iter().map(IpAddr::to_canonical) {
                nodes.entry(address).or_default().push(answers.clone());
            }
        }
        let mut local: BTreeMap<IpAddr, Vec<&Endpoint>> = BTreeMap::new();
        for endpoint in world.endpoints() {
            let unique: BTreeSet<IpAddr> = endpoint.addresses.iter().map(IpAddr::to_canonical).collect();
            for address in unique {
                local.entry(address).or_default().push(endpoint);
            }
        }
        Self {
            world,
            terms,
            strangers,
            matched: None,
            nodes,
            own: world.own_addresses(),
            local,
        }
    }

    /// With what pods answered already, in this world and to these terms.
    pub(crate) fn remembering(self, matched: &'w Matched) -> Self {
        Self {
            matched: Some(matched),
            ..self
        }
    }

    /// The addresses of nodes, of local interfaces and of several pods, where they need an entry: `placed` are those that
    /// have one already, by what one remote pod answers.
    pub(crate) fn other_than(&self, placed: &BTreeMap<Addr, AddressEntry>) -> BTreeMap<IpAddr, Owner> {
        let nodes = self.nodes.iter().filter(|(address, all)| {
            all.iter().any(|a| !a.is_empty()) || placed.contains_key(&Addr::from(**address))
        });
        let nodes = nodes.map(|(address, _)| address);
        let wanted = nodes
            .chain(&self.own)
            .chain(self.local.keys())
            .chain(self.world.contested());
        wanted.map(|address| (*address, self.owner(*address))).collect()
    }

    fn is_node(&self, address: IpAddr) -> bool {
        self.nodes.contains_key(&address) || self.own.contains(&address)
    }

    /// What is known of the owner of an address.
    fn owner(&self, address: IpAddr) -> Owner {
        let (flags, ifindex, signature) = if self.is_node(address) {
            let own = self.own.contains(&address);
            let claims = self.nodes.get(&address).into_iter().flatten().cloned().map(Some);
            let flags = if own { AddressEntry::LOCAL_NODE } else { 0 };
            (flags, 0, self.one_of(claims))
        } else if let Some(local) = self.local.get(&address) {
            // What the interface says is known on this node; a status may be old.
            let claims = local.iter().map(|endpoint| {
                let pod = self.world.pod_of(endpoint)?;
                Some(if pod.is_peer() {
                    self.answers(pod, address)
                } else {
                    Answers::new()
                })
            });
            // The newest interface has the highest index.
            let newest = local.iter().map(|endpoint| endpoint.ifindex).max();
            (AddressEntry::POD, newest.unwrap_or(0), self.one_of(claims))
        } else {
            let pods = self.world.pods_with(address);
            let signature = if pods.is_empty() {
                self.stranger(self.in_pod_network(address) && !self.is_infrastructure(address))
            } else {
                self.one_of(pods.iter().map(|pod| Some(self.answers(pod, address))))
            };
            (AddressEntry::POD, 0, signature)
        };
        Owner {
            flags,
            ifindex,
            signature: self.terms.at(address, signature),
        }
    }

    /// What an address answers, with an entry or without.
    pub(crate) fn signature(&self, address: IpAddr) -> Signature {
        self.owner(address.to_canonical()).signature
    }

    /// What a pod answers that has no address yet.
    pub(crate) fn signature_of_pod(&self, pod: &Pod) -> Signature {
        let labels = self.world.namespace_labels(&pod.namespace);
        let local = self.terms.in_namespace(&pod.namespace, &labels);
        Signature::known(self.terms.of_pod(&local, pod, None))
    }

    fn answers(&self, pod: &Pod, address: IpAddr) -> Answers {
        if let Some(known) = self.matched.and_then(|matched| matched.answers(pod, address)) {
            return known;
        }
        let labels = self.world.namespace_labels(&pod.namespace);
        let local = self.terms.in_namespace(&pod.namespace, &labels);
        self.terms.of_pod(&local, pod, Some(address))
    }

    /// What is possible but not certain counts only where something is taken from pods.
    fn one_of(&self, claims: impl Iterator<Item = Option<Answers>>) -> Signature {
        let signature = Signature::one_of(claims);
        match self.strangers {
            Strangers::Ignored => signature.certain_only(),
            Strangers::InPodNetworks | Strangers::Anywhere => signature,
        }
    }

    fn stranger(&self, in_pod_network: bool) -> Signature {
        match self.strangers {
            Strangers::InPodNetworks if in_pod_network && !self.world.is_complete() => Signature::unknown(),
            Strangers::Anywhere => Signature::unknown(),
            Strangers::InPodNetworks | Strangers::Ignored => Signature::default(),
        }
    }

    fn in_pod_network(&self, address: IpAddr) -> bool {
        self.world
            .pod_networks()
            .iter()
            .any(|network| network.contains(&address))
    }

    /// Of a node's pod network the first two addresses are the node's own: flannel's and the bridge's.
    fn is_infrastructure(&self, address: IpAddr) -> bool {
        self.infrastructure().any(|own| own == address)
    }

    fn infrastructure(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let networks = self.world.nodes().flat_map(|node| &node.pod_cidrs);
        networks.flat_map(|network| {
            let first = network.network();
            let second = match first {
                IpAddr::V4(v4) => IpAddr::V4(v4.saturating_add(1)),
                IpAddr::V6(v6) => IpAddr::V6(v6.saturating_add(1)),
            };
            let inside = [first, second].into_iter().filter(|own| network.contains(own));
            inside.map(|own| own.to_canonical())
        })
    }

    /// The prefixes that need an entry, with their signature and [`PrefixEntry`] flags: those that policies name and the
    /// pods' networks.
    pub(crate) fn prefixes(&self) -> BTreeMap<Prefix, (Signature, u32)> {
        let networks = Networks::new(self.world.pod_networks());
        let mut nets: BTreeSet<IpNet> = self
            .terms
            .prefixes()
            .chain(networks.all.iter().copied())
            .collect();
        if self.strangers == Strangers::Anywhere {
            nets.extend([IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())]);
        }
        // IPv4 addresses stand in ::ffff:0:0/96. An IPv6 prefix around that must not reach them (SEMANTICS 23).
        let mapped = Ipv6Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED.to_ipv6_mapped(), 96);
        if nets
            .iter()
            .any(|net| matches!(net, IpNet::V6(net) if net.contains(&mapped)))
        {
            nets.insert(IpNet::V4(Ipv4Net::default()));
        }
        let entry = |net: &IpNet, strange: bool| {
            let pods = networks.contain(net);
            let flags = if pods { PrefixEntry::POD_NETWORK } else { 0 };
            let signature = self.terms.at_prefix(net, self.stranger(strange && pods));
            (key(net), (signature, flags))
        };
        let mut entries: BTreeMap<_, _> = nets.iter().map(|net| entry(net, true)).collect();
        if self.strangers == Strangers::InPodNetworks && !self.world.is_complete() {
            // Nodes' addresses among the pods' are no unknown pods'. A packet that this node masqueraded is judged by
            // prefix, and has such an address.
            let inside = |address: &IpAddr| networks.contain(&IpNet::from(*address));
            for address in self
                .own
                .iter()
                .copied()
                .chain(self.infrastructure())
                .filter(inside)
            {
                let (key, value) = entry(&IpNet::from(address), false);
                entries.insert(key, value);
            }
        }
        entries
    }
}

/// The pods' networks; each length among them needs one look-up, however many there are.
struct Networks {
    all: BTreeSet<IpNet>,
    lengths: BTreeSet<u8>,
}

impl Networks {
    fn new(all: BTreeSet<IpNet>) -> Self {
        let lengths = all.iter().map(IpNet::prefix_len).collect();
        Self { all, lengths }
    }

    /// Whether one of them contains the whole of this.
    fn contain(&self, net: &IpNet) -> bool {
        let around = |length: &u8| IpNet::new(net.addr(), *length).map(|net| net.trunc());
        let mut lengths = self.lengths.range(..=net.prefix_len());
        lengths.any(|length| around(length).is_ok_and(|around| self.all.contains(&around)))
    }
}

/// The pod at an address that no node has: a local interface's, or else the first that lists it.
pub(crate) fn pod_at(world: &World, address: IpAddr) -> Option<&Pod> {
    let has = |addresses: &[IpAddr]| addresses.iter().any(|a| a.to_canonical() == address);
    let newest = world
        .endpoints()
        .filter(|endpoint| has(&endpoint.addresses))
        .last();
    match newest {
        Some(endpoint) => world.pod_of(endpoint),
        None => world.pods_with(address).first().map(AsRef::as_ref),
    }
}

/// A prefix as the map has it.
pub(crate) fn key(net: &IpNet) -> Prefix {
    let length = match net {
        IpNet::V4(net) => 96 + u32::from(net.prefix_len()),
        IpNet::V6(net) => u32::from(net.prefix_len()),
    };
    Prefix {
        length,
        addr: Addr::from(net.network()),
    }
}
