//! Lists of peers and rules: what was meant as one stands as two, twice, or not at all.

use super::{
    Lint, codes,
    policy::{Direction, Peer, Policy, Rule},
    selector::Selected,
    spot::Spot,
};

pub(super) fn check(lint: &mut Lint<'_>, policy: &Policy<'_>) {
    for direction in policy.directions() {
        if policy.cluster.is_none() {
            two_rules(lint, policy, direction);
            for rule in &direction.rules {
                two_peers(lint, policy, rule);
                bad_peers(lint, policy, rule);
                empty_lists(lint, policy, direction, rule);
            }
        }
        repeated(
            lint,
            policy,
            &direction
                .rules
                .iter()
                .map(|rule| rule.spot.clone())
                .collect::<Vec<_>>(),
            "rule",
        );
        for rule in &direction.rules {
            let spots = rule.peers.iter().map(|peer| peer.spot.clone());
            repeated(lint, policy, &spots.collect::<Vec<_>>(), "peer");
            let spots = rule.ports.iter().map(|port| port.spot.clone());
            repeated(lint, policy, &spots.collect::<Vec<_>>(), "port");
        }
    }
}

/// A peer of one selector only, of namespaces or of pods.
fn lone<'p, 'a>(peer: &'p Peer<'a>) -> (Option<&'p Selected<'a>>, Option<&'p Selected<'a>>) {
    match (&peer.namespaces, &peer.pods, peer.blocks.is_empty()) {
        (Some(namespaces), None, true) => (Some(namespaces), None),
        (None, Some(pods), true) => (None, Some(pods)),
        _ => (None, None),
    }
}

/// `- namespaceSelector` and `- podSelector` where one peer of both was probably meant.
fn two_peers(lint: &mut Lint<'_>, policy: &Policy<'_>, rule: &Rule<'_>) {
    // Who writes blocks beside them lists things one by one; who writes a peer of both knows how.
    let lists = rule.peers.iter().any(|peer| !peer.blocks.is_empty());
    let knows = rule
        .peers
        .iter()
        .any(|peer| peer.namespaces.is_some() && peer.pods.is_some());
    for pair in rule.peers.windows(2) {
        let [first, second] = pair else { continue };
        let (namespaces, pods, in_order) = match (lone(first), lone(second)) {
            ((Some(namespaces), None), (None, Some(pods))) => (namespaces, pods, true),
            ((None, Some(pods)), (Some(namespaces), None)) => (namespaces, pods, false),
            _ => continue,
        };
        // All pods here and all pods there: that is a list.
        if pods.is_everything() {
            continue;
        }
        // All namespaces contain the policy's own: the pods add nothing, so both were meant together.
        let certain = namespaces.is_everything();
        let evidence = where_the_pods_are(lint, policy, namespaces, pods);
        let meant_as_one = match evidence {
            Some(Evidence::OnlyThere) => true,
            Some(Evidence::Here) => certain,
            None => certain || (in_order && !lists && !knows),
        };
        if !meant_as_one {
            continue;
        }
        let both = match rule.peers_field.as_ref().map(Spot::name) {
            Some("to") => "to",
            _ => "from",
        };
        let there = if namespaces.is_everything() {
            "every pod of every namespace".to_owned()
        } else {
            format!("every pod of namespaces {}", namespaces.words())
        };
        let message = format!(
            "{} and {} are two peers, and either is enough: {there}, and pods {} of namespace {}",
            first.spot.name(),
            second.spot.name(),
            pods.words(),
            policy.object.namespace
        );
        let field = if in_order {
            "podSelector"
        } else {
            "namespaceSelector"
        };
        let fix = format!(
            "if only pods {} in those namespaces are meant, remove the dash before this {field}, so that both stand in one item of {both}",
            pods.words()
        );
        lint.find(policy.object, codes::TWO_PEERS, &second.spot, message, fix);
    }
}

/// Where the pods of a lone podSelector are.
enum Evidence {
    /// In the policy's own namespace: they are meant.
    Here,
    /// Only in the namespaces of the peer beside it.
    OnlyThere,
}

fn where_the_pods_are(
    lint: &Lint<'_>,
    policy: &Policy<'_>,
    namespaces: &Selected<'_>,
    pods: &Selected<'_>,
) -> Option<Evidence> {
    let (namespaces, pods) = (namespaces.selector.as_ref()?, pods.selector.as_ref()?);
    let own = policy.object.namespace;
    let any = |namespace: &str| {
        lint.world
            .pods_of(namespace)
            .iter()
            .any(|pod| pods.matches(&pod.labels))
    };
    let here = any(own);
    let there = lint
        .world
        .matching(namespaces)?
        .into_iter()
        .any(|name| name != own && any(name));
    match (here, there) {
        (true, false) => Some(Evidence::Here),
        (false, true) => Some(Evidence::OnlyThere),
        // Both, or neither: it stays a guess.
        (true, true) | (false, false) => None,
    }
}

/// `- from` and `- ports` where one rule of both was probably meant.
fn two_rules(lint: &mut Lint<'_>, policy: &Policy<'_>, direction: &Direction<'_>) {
    for pair in direction.rules.windows(2) {
        let [first, second] = pair else { continue };
        let only_peers = |rule: &Rule<'_>| !rule.peers.is_empty() && rule.ports_field.is_none();
        let only_ports = |rule: &Rule<'_>| !rule.ports.is_empty() && rule.peers_field.is_none();
        // To whomever they ask names is how DNS is commonly allowed.
        let dns = |rule: &Rule<'_>| direction.name == "egress" && super::dns::has_port_53(rule);
        let (peers, ports) = if only_peers(first) && only_ports(second) {
            (first, second)
        } else if only_ports(first) && only_peers(second) {
            (second, first)
        } else {
            continue;
        };
        if dns(ports) {
            continue;
        }
        let (whom, way) = if direction.name == "ingress" {
            ("from anybody", "from")
        } else {
            ("to anybody", "to")
        };
        let message = format!(
            "{} allows every port, and {} allows its ports {whom}: they are two rules",
            peers.spot.name(),
            ports.spot.name()
        );
        let fix = format!(
            "if these peers at these ports are meant, remove the dash before the second one: {way} and ports in one item"
        );
        lint.find(policy.object, codes::TWO_RULES, &second.spot, message, fix);
    }
}

/// Peers that the API server refuses.
fn bad_peers(lint: &mut Lint<'_>, policy: &Policy<'_>, rule: &Rule<'_>) {
    const KNOWN: &[&str] = &["podSelector", "namespaceSelector", "ipBlock"];
    for peer in &rule.peers {
        let has = |key: &str| peer.spot.get(key).is_some();
        // An unknown field is told as such.
        let unknown = peer.spot.pairs().iter().any(|(key, _)| !KNOWN.contains(key));
        if has("ipBlock") && (has("podSelector") || has("namespaceSelector")) {
            let at = peer.spot.get("ipBlock").unwrap_or_else(|| peer.spot.clone());
            lint.find(
                policy.object,
                codes::BAD_PEER,
                &at,
                "an ipBlock beside a selector is refused, and matches nothing",
                "make the ipBlock an item of its own",
            );
        } else if !KNOWN.iter().any(|key| has(key)) && !unknown {
            lint.find(
                policy.object,
                codes::BAD_PEER,
                &peer.spot,
                "a peer without a field is refused, and matches nothing",
                "write podSelector, namespaceSelector or ipBlock; for every pod of all namespaces write namespaceSelector: {}",
            );
        }
    }
}

/// `from: []`, which means everybody.
fn empty_lists(lint: &mut Lint<'_>, policy: &Policy<'_>, direction: &Direction<'_>, rule: &Rule<'_>) {
    let whom = if direction.name == "ingress" {
        "every source, nodes and the outside included"
    } else {
        "every destination, nodes and the outside included"
    };
    let lists = [
        (&rule.peers_field, whom),
        (&rule.ports_field, "every port of every protocol"),
    ];
    for (field, all) in lists {
        let Some(field) = field.as_ref().filter(|field| field.is_empty()) else {
            continue;
        };
        let name = field.name();
        let allow_none = format!("write no rule at all to allow nothing ({}: [])", direction.name);
        lint.find(
            policy.object,
            codes::EMPTY_LIST,
            field,
            format!("an empty {name} means {all}, not nothing"),
            format!("leave {name} out if everything is meant; {allow_none}"),
        );
    }
}

/// Items of a list that say the same.
fn repeated(lint: &mut Lint<'_>, policy: &Policy<'_>, spots: &[Spot<'_>], what: &str) {
    for (index, spot) in spots.iter().enumerate() {
        // Too many to compare each with each are written by a program.
        if index > 200 {
            break;
        }
        if let Some(first) = spots[..index].iter().find(|first| first.same(spot)) {
            let message = format!("this {what} says the same as {}, and adds nothing", first.path());
            lint.find(
                policy.object,
                codes::REPEATED,
                spot,
                message,
                "remove it, or write what it was to say",
            );
        }
    }
}
