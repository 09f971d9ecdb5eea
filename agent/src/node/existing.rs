//! Pods that run already: from the result cache of libcni, and from the records that an earlier agent left.
//!
//! libcni writes the result of every ADD to `/var/lib/cni/results/<network>-<container>-<interface>`, with the pod's name
//! in the arguments (libcni/api.go, `cacheAdd`). So pods that started before vethwall are found without entering a
//! namespace, and attached without a restart. The cache only says where to look: an interface counts when the kernel
//! has a veth of that name now.
//!
//! Where the cache is missing or a result can not be used, a pod that an earlier agent enforced is still known by its
//! record in the kernel: interface and addresses. While our programs are on the interface it is the one that the record
//! is about, since they go with it; and of the pods of this node, one has that address.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use vethwall_common::{address::Addr, endpoint::EndpointRecord};
use vethwall_policy::{model::Pod, world::World};

use super::Interface;
use crate::cni_cache;

/// What results are called in `status`.
pub(super) const RESULTS: &str = "cached CNI results";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    container_id: String,
    #[serde(default)]
    if_name: String,
    #[serde(default)]
    cni_args: Vec<(String, String)>,
    #[serde(default)]
    result: CachedResult,
}

#[derive(Default, Deserialize)]
struct CachedResult {
    #[serde(default)]
    interfaces: Vec<CachedInterface>,
    #[serde(default)]
    ips: Vec<CachedIp>,
}

#[derive(Deserialize)]
struct CachedInterface {
    name: String,
    #[serde(default)]
    mac: String,
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct CachedIp {
    address: String,
    interface: Option<usize>,
}

/// What one look at the cache found.
#[derive(Debug, Default)]
pub struct Found {
    /// Pods with an interface on this node.
    pub interfaces: Vec<Interface>,
    /// Cached results that speak of a pod but can not be used, and why. Their pods are not protected.
    pub unusable: Vec<(PathBuf, String)>,
}

/// Looks at the cache. A directory that does not exist holds nothing. `host_veth` gives the index of the veth of a name.
pub fn scan(directory: &Path, host_veth: impl Fn(&str) -> Option<u32>) -> io::Result<Found> {
    let mut found = Found::default();
    for (path, text) in cni_cache::results(directory)? {
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                found.unusable.push((path, error.to_string()));
                continue;
            }
        };
        match interface(&text, &host_veth) {
            Ok(Some(interface)) => found.interfaces.push(interface),
            Ok(None) => {}
            Err(why) => found.unusable.push((path, why)),
        }
    }
    Ok(found)
}

/// The interface of one cached result; `None` where it is not a pod's or the pod is gone.
fn interface(text: &[u8], host_veth: &impl Fn(&str) -> Option<u32>) -> Result<Option<Interface>, String> {
    let cached: Cached = serde_json::from_slice(text).map_err(|e| format!("not a cached result: {e}"))?;
    let argument = |key: &str| {
        let found = cached.cni_args.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    let pod = argument("K8S_POD_NAME");
    if pod.is_empty() {
        return Ok(None);
    }
    let interfaces = &cached.result.interfaces;
    let inside = interfaces
        .iter()
        .position(|i| !i.sandbox.is_empty() && i.name == cached.if_name)
        .ok_or("the result names no interface inside the pod")?;
    let mut host = None;
    for candidate in interfaces.iter().filter(|i| i.sandbox.is_empty()) {
        if let Some(ifindex) = host_veth(&candidate.name) {
            if host.is_some() {
                return Err("the result names several veths on the host".to_owned());
            }
            host = Some((candidate.name.clone(), ifindex));
        }
    }
    let Some((host_ifname, ifindex)) = host else {
        return Ok(None);
    };
    let addresses = cached
        .result
        .ips
        .iter()
        .filter(|ip| ip.interface.is_none_or(|i| i == inside));
    let addresses = addresses
        .map(|ip| {
            let text = ip.address.split('/').next().unwrap_or_default();
            text.parse::<IpAddr>()
                .map_err(|e| format!("address {}: {e}", ip.address))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mac = mac(&interfaces[inside].mac)
        .ok_or_else(|| format!("no MAC address: {:?}", interfaces[inside].mac))?;
    Ok(Some(Interface {
        ifname: cached.if_name.clone(),
        host_ifname,
        ifindex,
        mac,
        addresses,
        namespace: argument("K8S_POD_NAMESPACE"),
        pod,
        uid: argument("K8S_POD_UID"),
        container_id: cached.container_id,
    }))
}

pub(super) fn mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

/// The pods behind records: interfaces of now (`veths`, by number; only such as carry our programs) and objects of now
/// must agree with them.
pub fn recorded(
    records: &BTreeMap<u32, EndpointRecord>,
    veths: &BTreeMap<u32, String>,
    world: &World,
) -> Vec<Interface> {
    let found = records.iter().filter_map(|(ifindex, record)| {
        let host_ifname = veths.get(ifindex)?.clone();
        let addresses: Vec<IpAddr> = record
            .addresses
            .into_iter()
            .filter(|a| *a != Addr::NONE)
            .map(IpAddr::from)
            .collect();
        let pod = pod_with(&addresses, world)?;
        Some(Interface {
            container_id: String::new(),
            ifname: String::new(),
            host_ifname,
            ifindex: *ifindex,
            mac: record.mac,
            addresses,
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
        })
    });
    found.collect()
}

/// The pod of this node that has all of these addresses, if it is the only one with any of them.
fn pod_with<'w>(addresses: &[IpAddr], world: &'w World) -> Option<&'w Pod> {
    let mut claims = addresses.iter().map(|address| match world.pods_with(*address) {
        [pod] if pod.node.as_deref() == Some(world.node()) => Some(pod.as_ref()),
        _ => None,
    });
    let first = claims.next()??;
    claims.all(|claim| claim == Some(first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHED: &str = r#"{"kind":"cniCacheV1","containerId":"c1","config":"e30=","ifName":"eth0","networkName":"cbr0",
        "cniArgs":[["IgnoreUnknown","1"],["K8S_POD_NAMESPACE","shop"],["K8S_POD_NAME","web"],["K8S_POD_UID","u1"]],
        "result":{"cniVersion":"0.3.1","interfaces":[{"name":"cni0","mac":"0a:00:00:00:00:01"},
            {"name":"veth1","mac":"0a:00:00:00:00:02"},{"name":"eth0","mac":"0a:00:00:00:00:03","sandbox":"/run/netns/x"}],
            "ips":[{"version":"4","interface":2,"address":"10.244.0.2/24"},{"version":"6","interface":2,"address":"fd00::2/64"},
            {"version":"4","interface":0,"address":"10.244.0.1/24"}]}}"#;

    fn look(text: &str) -> Result<Option<Interface>, String> {
        interface(text.as_bytes(), &|name| (name == "veth1").then_some(9))
    }

    #[test]
    fn a_running_pod_is_found_with_its_own_addresses() {
        let found = look(CACHED).unwrap().unwrap();
        assert_eq!((found.ifindex, found.host_ifname.as_str()), (9, "veth1"));
        assert_eq!(
            (found.namespace.as_str(), found.pod.as_str(), found.uid.as_str()),
            ("shop", "web", "u1")
        );
        assert_eq!(
            found.addresses,
            [
                "10.244.0.2".parse::<IpAddr>().unwrap(),
                "fd00::2".parse().unwrap()
            ]
        );
        assert_eq!(found.mac, [0x0a, 0, 0, 0, 0, 3]);
        assert_eq!(found.container_id, "c1");
    }

    #[test]
    fn what_is_no_pod_here_is_left_alone() {
        assert_eq!(look(&CACHED.replace("K8S_POD_NAME\"", "OTHER\"")), Ok(None));
        assert_eq!(
            look(&CACHED.replace("veth1", "veth2")),
            Ok(None),
            "the interface is gone"
        );
    }

    #[test]
    fn what_can_not_be_used_is_told() {
        assert!(look("{").is_err());
        assert!(
            look(&CACHED.replace("0a:00:00:00:00:03", "none"))
                .unwrap_err()
                .contains("MAC")
        );
        assert!(
            look(&CACHED.replace("10.244.0.2/24", "ten"))
                .unwrap_err()
                .contains("ten")
        );
        assert!(
            look(&CACHED.replace("\"sandbox\":\"/run/netns/x\"", "\"x\":1"))
                .unwrap_err()
                .contains("inside")
        );
    }
}
