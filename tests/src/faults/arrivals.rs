//! What a frame is to the pod whose interface it reached: pure.

use std::net::{IpAddr, Ipv4Addr};

use crate::oracle::packet::bytes::{self, Content, Frame};

/// The bridge's address: the node's own.
const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 1, 1));
const IGMP: u8 = 2;
const TCP: u8 = 6;

/// What a frame is to its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// ARP, neighbour and listener discovery, of which no policy speaks; and that the node itself listens to multicast.
    Aside,
    /// Policy allows it.
    Allowed,
    /// Policy forbids it, or it is nothing that anybody here ought to send.
    Forbidden,
}

/// Judges a frame that came in at `open`, where `free` may send everything and all others TCP to port 80, or at any other receiver,
/// where nothing may come in.
pub(super) fn judge(at: &str, free: Option<IpAddr>, frame: &[u8]) -> Arrival {
    let ip = match bytes::frame(frame, false) {
        Frame::Arp(_) => return Arrival::Aside,
        Frame::Ip(ip) => ip,
        Frame::Vlan | Frame::Other => return Arrival::Forbidden,
    };
    if matches!(ip.content, Content::Neighbour(..) | Content::Listener(_)) {
        return Arrival::Aside;
    }
    let from_node = ip.ends.is_some_and(|(source, _)| source == NODE);
    if from_node && ip.protocol == IGMP {
        return Arrival::Aside;
    }
    let from_free = ip.ends.is_some_and(|(source, _)| Some(source) == free);
    let to_port_80 = ip.protocol == TCP && matches!(ip.content, Content::Ports { destination: 80, .. });
    if at == "open" && (from_free || to_port_80) {
        Arrival::Allowed
    } else {
        Arrival::Forbidden
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::packet::{self, Packet};

    const FREE: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 5);
    const LITTLE: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 6);
    const RECEIVER: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);
    const SYN: u8 = 2;

    #[test]
    fn of_what_arrives_only_what_policy_allows_is_no_violation() {
        use Arrival::{Allowed, Aside, Forbidden};
        let tcp = |from, port| Packet::tcp((from, 40000), (RECEIVER, port), SYN).bytes();
        let udp = |from, port| Packet::udp((from, 40000), (RECEIVER, port)).bytes();
        let echo = |from| Packet::echo(from, RECEIVER, 1, false).bytes();
        let igmp = |from: IpAddr| Packet::new(from, Ipv4Addr::new(224, 0, 0, 22), IGMP, &[0x22; 16]).bytes();
        let udp_from_node = Packet::udp((NODE, 53), (RECEIVER, 53)).bytes();
        // To open, to closed.
        for (what, frame, open, closed) in [
            ("a SYN to port 80", tcp(LITTLE, 80), Allowed, Forbidden),
            ("a SYN to port 81", tcp(LITTLE, 81), Forbidden, Forbidden),
            ("a datagram to port 53", udp(LITTLE, 53), Forbidden, Forbidden),
            ("a datagram to port 80", udp(LITTLE, 80), Forbidden, Forbidden),
            ("an echo request", echo(LITTLE), Forbidden, Forbidden),
            ("free's SYN to port 81", tcp(FREE, 81), Allowed, Forbidden),
            ("free's datagram", udp(FREE, 53), Allowed, Forbidden),
            ("free's echo request", echo(FREE), Allowed, Forbidden),
            (
                "a later fragment",
                Packet::tcp((LITTLE, 40000), (RECEIVER, 80), SYN)
                    .as_fragment(1, 64, false)
                    .bytes(),
                Forbidden,
                Forbidden,
            ),
            (
                "ARP",
                packet::arp([2; 6], [2; 6], LITTLE.octets(), RECEIVER.octets()),
                Aside,
                Aside,
            ),
            (
                "LLDP",
                packet::frame([2; 6], 0x88cc, &[0; 46]),
                Forbidden,
                Forbidden,
            ),
            ("the node's IGMP", igmp(NODE), Aside, Aside),
            ("a pod's IGMP", igmp(LITTLE.into()), Forbidden, Forbidden),
            ("a datagram of the node's", udp_from_node, Forbidden, Forbidden),
            ("a stub", vec![0; 7], Forbidden, Forbidden),
        ] {
            assert_eq!(judge("open", Some(FREE.into()), &frame), open, "{what}");
            assert_eq!(judge("closed", Some(FREE.into()), &frame), closed, "{what}");
        }
        assert_eq!(
            judge("open", None, &udp(FREE, 53)),
            Forbidden,
            "nobody is free who does not run"
        );
    }
}
