//! Which namespaces and pods of the input a policy and its peers mean.

use vethwall_policy::model::Selector;

use super::{
    policy::{Peer, Policy},
    selector::Selected,
    world::{Pod, World},
};

/// The namespaces whose pods a policy may select. None where the input can not tell.
pub(super) fn subject_namespaces<'w>(world: &'w World, policy: &'w Policy<'_>) -> Option<Vec<&'w str>> {
    match (&policy.cluster, &policy.namespaces) {
        (None, _) => Some(vec![policy.object.namespace]),
        (Some(_), None) => Some(world.namespaces().collect()),
        (Some(_), Some(namespaces)) => world.matching(namespaces.selector.as_ref()?),
    }
}

/// The pods that a policy selects, those with hostNetwork too.
pub(super) fn subject<'w>(world: &'w World, policy: &'w Policy<'_>) -> Option<Vec<&'w Pod>> {
    Some(pods(
        world,
        &subject_namespaces(world, policy)?,
        pod_selector(policy.pods.as_ref())?,
    ))
}

/// The namespaces whose pods a peer may match. None where the input can not tell, or it has no selector.
pub(super) fn peer_namespaces<'w>(
    world: &'w World,
    policy: &'w Policy<'_>,
    peer: &Peer<'_>,
) -> Option<Vec<&'w str>> {
    match (&peer.namespaces, &peer.pods, &policy.cluster) {
        (Some(namespaces), _, _) => world.matching(namespaces.selector.as_ref()?),
        (None, None, _) => None,
        (None, Some(_), None) => Some(vec![policy.object.namespace]),
        (None, Some(_), Some(_)) => Some(world.namespaces().collect()),
    }
}

/// The pods that a peer matches, those with hostNetwork too.
pub(super) fn peer<'w>(world: &'w World, policy: &'w Policy<'_>, peer: &Peer<'_>) -> Option<Vec<&'w Pod>> {
    Some(pods(
        world,
        &peer_namespaces(world, policy, peer)?,
        pod_selector(peer.pods.as_ref())?,
    ))
}

/// All pods of some namespaces.
pub(super) fn everybody<'w>(world: &'w World, namespaces: &[&str]) -> Vec<&'w Pod> {
    pods(world, namespaces, &Selector::everything())
}

/// What a selector selects; where there is none, everything.
fn pod_selector<'s>(selected: Option<&'s Selected<'_>>) -> Option<&'s Selector> {
    const EVERYTHING: &Selector = &Selector::everything();
    selected.map_or(Some(EVERYTHING), |selected| selected.selector.as_ref())
}

fn pods<'w>(world: &'w World, namespaces: &[&str], selector: &Selector) -> Vec<&'w Pod> {
    let all = namespaces.iter().flat_map(|name| world.pods_of(name));
    all.filter(|pod| selector.matches(&pod.labels)).collect()
}
