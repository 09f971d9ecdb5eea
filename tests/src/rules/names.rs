//! Chain names as kube-proxy makes them: a prefix and 16 characters of base32(SHA-256).

use std::net::SocketAddr;

use sha2::{Digest, Sha256};

const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The four per-service chain kinds and the endpoint chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// All endpoints.
    Service,
    /// Only the endpoints of this node.
    Local,
    /// Traffic from outside, before it chooses one of the two above.
    External,
}

/// `KUBE-SVC-…`, `KUBE-SVL-…` or `KUBE-EXT-…` of a service port (`service` is `ns/name[:port]`).
pub(super) fn service(kind: Kind, service: &str, protocol: &str) -> String {
    let prefix = match kind {
        Kind::Service => "KUBE-SVC-",
        Kind::Local => "KUBE-SVL-",
        Kind::External => "KUBE-EXT-",
    };
    format!("{prefix}{}", hash(&[service, protocol]))
}

/// `KUBE-SEP-…` of one endpoint of a service port.
pub(super) fn endpoint(service: &str, protocol: &str, endpoint: SocketAddr) -> String {
    format!("KUBE-SEP-{}", hash(&[service, protocol, &endpoint.to_string()]))
}

fn hash(parts: &[&str]) -> String {
    let digest = Sha256::digest(parts.concat().as_bytes());
    // 16 characters of 5 bits are the first 80 bits: no padding can appear.
    let bits = digest
        .iter()
        .take(10)
        .fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
    (0..16)
        .rev()
        .map(|place| char::from(ALPHABET[(bits >> (place * 5) & 31) as usize]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_a_real_cluster() {
        // Well known from every cluster that kube-proxy runs in.
        assert_eq!(
            service(Kind::Service, "default/kubernetes:https", "tcp"),
            "KUBE-SVC-NPX46M4PTMTKRN6Y"
        );
        assert_eq!(
            service(Kind::Service, "kube-system/kube-dns:dns", "udp"),
            "KUBE-SVC-TCOU7JCQXEZGVUNU"
        );
        assert_eq!(
            service(Kind::Service, "kube-system/kube-dns:dns-tcp", "tcp"),
            "KUBE-SVC-ERIFXISQEP7F7OF4"
        );
    }
}
