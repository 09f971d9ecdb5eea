//! What flannel and the kernel say of the node's network.

use std::{fs, net::IpAddr, path::Path};

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;

/// Written by flanneld: the cluster's and the node's pod networks (flannel `pkg/subnet/subnet.go`, `WriteSubnetFile`).
pub const SUBNET_FILE: &str = "/run/flannel/subnet.env";

/// The cluster's pod networks in the text of a subnet file.
pub fn pod_networks(text: &str) -> Vec<IpNet> {
    let values = text.lines().filter_map(|line| line.trim().split_once('='));
    let networks = values.filter(|(key, _)| matches!(*key, "FLANNEL_NETWORK" | "FLANNEL_IPV6_NETWORK"));
    // A cluster with several networks lists them with commas.
    networks
        .flat_map(|(_, value)| value.split(','))
        .filter_map(|text| text.trim().parse().ok())
        .collect()
}

/// The cluster's pod networks, as far as flannel has written them.
pub fn read_pod_networks(file: &Path) -> Vec<IpNet> {
    fs::read_to_string(file)
        .map(|text| pod_networks(&text))
        .unwrap_or_default()
}

/// Every address of this network namespace but loopback's.
pub fn own_addresses() -> nix::Result<Vec<IpAddr>> {
    let addresses = addresses()?.map(|(_, address)| address);
    let mut addresses: Vec<IpAddr> = addresses.filter(|address| !address.is_loopback()).collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

/// Whether the bridge is the gateway of pods with addresses of IPv4, of IPv6: flannel gives it one of each family of theirs.
pub fn families(bridge: &str) -> nix::Result<[bool; 2]> {
    let mut families = [false; 2];
    for (_, address) in addresses()?.filter(|(interface, _)| interface == bridge) {
        match address {
            IpAddr::V4(_) => families[0] = true,
            // Every interface has one of its link.
            IpAddr::V6(address) => families[1] |= !address.is_unicast_link_local(),
        }
    }
    Ok(families)
}

/// The interfaces' addresses.
fn addresses() -> nix::Result<impl Iterator<Item = (String, IpAddr)>> {
    Ok(getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let ip = v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))?;
        Some((interface.interface_name, ip))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_both_families_are_read() {
        let text = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPV6_NETWORK=fd00:10:244::/56\nFLANNEL_MTU=1450\n";
        let networks = pod_networks(text);
        assert_eq!(
            networks,
            [
                "10.244.0.0/16".parse::<IpNet>().unwrap(),
                "fd00:10:244::/56".parse().unwrap()
            ]
        );
        assert_eq!(pod_networks("FLANNEL_NETWORK=\n"), []);
    }
}
