use super::*;

const POD: &str = "10.42.0.2";
const VIP: &str = "10.96.0.80";
const BACKEND: &str = "10.42.0.3";

fn tuple(protocol: u8, source: (&str, u16), destination: (&str, u16)) -> Tuple {
    Tuple {
        source: source.0.parse().unwrap(),
        source_port: source.1,
        destination: destination.0.parse().unwrap(),
        destination_port: destination.1,
        protocol,
    }
}

fn connection(original: Tuple, reply: Tuple, state: u8) -> Connection {
    Connection {
        original,
        reply,
        state,
    }
}

/// The flows on a node with one or two of the pods: direction, ends as the pod sees them, state.
fn flows(connection: &Connection, locals: &[(&str, u32)]) -> Vec<(FlowKey, Direction, u8)> {
    let local = |address: IpAddr| {
        let found = locals.iter().find(|(text, _)| address.to_string() == *text);
        found.map(|(_, ifindex)| *ifindex)
    };
    let pod = |address: IpAddr| address.to_string().starts_with("10.42.");
    let flows = connection.flows(77, local, pod);
    assert!(flows.iter().all(|(_, entry)| entry.last_seen == 77));
    assert!(flows.iter().all(|(_, entry)| entry.generation == 0));
    let shown =
        |(key, entry): (FlowKey, FlowEntry)| (key, Direction::from_u8(entry.direction).unwrap(), entry.state);
    flows.into_iter().map(shown).collect()
}

fn key(ifindex: u32, protocol: u8, one: (&str, u16), other: (&str, u16)) -> FlowKey {
    tuple(protocol, one, other).key(ifindex)
}

// Covers: SEMANTICS 46
#[test]
fn both_pods_see_a_connection_each_in_its_direction() {
    let original = tuple(TCP, (POD, 40000), (BACKEND, 8080));
    let both = connection(original, original.reversed(), state::REPLIED);
    let ends = ((POD, 40000), (BACKEND, 8080));
    assert_eq!(
        flows(&both, &[(POD, 2), (BACKEND, 3)]),
        [
            (
                key(2, TCP, ends.0, ends.1),
                Direction::Egress,
                state::REPLIED | state::DIRECT
            ),
            (key(3, TCP, ends.0, ends.1), Direction::Ingress, state::REPLIED),
        ]
    );
    assert_eq!(flows(&both, &[]), []);
    assert_eq!(flows(&both, &[(BACKEND, 3)]).len(), 1);
}

// Covers: SEMANTICS 41, 46
#[test]
fn a_services_address_is_what_the_client_sees_and_the_backend_never() {
    let service = connection(
        tuple(UDP, (POD, 40000), (VIP, 53)),
        tuple(UDP, (BACKEND, 9053), (POD, 40000)),
        0,
    );
    assert_eq!(
        flows(&service, &[(POD, 2), (BACKEND, 3)]),
        [
            (
                key(2, UDP, (POD, 40000), (VIP, 53)),
                Direction::Egress,
                state::DEFERRED
            ),
            (key(2, UDP, (POD, 40000), (BACKEND, 9053)), Direction::Egress, 0),
            (key(3, UDP, (POD, 40000), (BACKEND, 9053)), Direction::Ingress, 0),
        ]
    );
    // Beyond the pods and not translated: one entry, for either stage.
    let outside = tuple(TCP, (POD, 40000), ("192.0.2.9", 443));
    let masked = tuple(TCP, ("192.0.2.9", 443), ("192.168.99.1", 61000));
    assert_eq!(
        flows(&connection(outside, masked, state::REPLIED), &[(POD, 2)]),
        [(
            key(2, TCP, (POD, 40000), ("192.0.2.9", 443)),
            Direction::Egress,
            state::REPLIED | state::DEFERRED
        )]
    );
}

// Covers: SEMANTICS 39, 46
#[test]
fn a_node_port_keeps_its_masqueraded_source() {
    let outside = connection(
        tuple(TCP, ("192.0.2.9", 50000), ("192.168.99.1", 30080)),
        tuple(TCP, (BACKEND, 8080), ("10.42.0.1", 61000)),
        state::REPLIED,
    );
    assert_eq!(
        flows(&outside, &[(BACKEND, 3)]),
        [(
            key(3, TCP, ("10.42.0.1", 61000), (BACKEND, 8080)),
            Direction::Ingress,
            state::REPLIED
        )]
    );
}

#[test]
fn a_pod_behind_its_own_service_has_an_entry_for_each_view() {
    let hairpin = connection(
        tuple(TCP, (POD, 40000), (VIP, 80)),
        tuple(TCP, (POD, 8080), ("10.42.0.1", 61000)),
        state::REPLIED,
    );
    let seen = flows(&hairpin, &[(POD, 2)]);
    let keys = [
        key(2, TCP, (POD, 40000), (VIP, 80)),
        key(2, TCP, (POD, 40000), (POD, 8080)),
        key(2, TCP, ("10.42.0.1", 61000), (POD, 8080)),
    ];
    assert_eq!(seen.iter().map(|(key, ..)| *key).collect::<Vec<_>>(), keys);
    // To its own address nothing is tracked.
    let original = tuple(TCP, (POD, 40000), (POD, 8080));
    assert_eq!(
        flows(&connection(original, original.reversed(), 0), &[(POD, 2)]),
        []
    );
}

/// A message as the kernel writes it: nfgenmsg, then attributes.
fn message(original: &Tuple, reply: &Tuple, status: u32, more: &[DefaultNla]) -> Vec<u8> {
    let value = |tuple: &Tuple| emit_tuple(tuple).unwrap();
    let rename = |kind, nla: DefaultNla| {
        let mut bytes = vec![0; nla.buffer_len()];
        nla.emit(&mut bytes);
        DefaultNla::new(kind | NLA_F_NESTED, bytes.split_off(4))
    };
    let mut attributes = vec![
        rename(CTA_TUPLE_ORIG, value(original)),
        rename(CTA_TUPLE_REPLY, value(reply)),
        DefaultNla::new(CTA_STATUS, status.to_be_bytes().to_vec()),
    ];
    attributes.extend_from_slice(more);
    let mut bytes = vec![0; attributes.as_slice().buffer_len()];
    attributes.as_slice().emit(&mut bytes);
    [vec![2, 0, 0, 0], bytes].concat()
}

fn info(kind: u16, state: u8) -> DefaultNla {
    let state = [DefaultNla::new(CTA_PROTOINFO_STATE, vec![state])];
    nested(CTA_PROTOINFO, &[nested(kind, &state)])
}

#[test]
fn a_message_is_read() {
    let fins = state::FIN_ORIGINAL | state::FIN_REPLY;
    for (protocol, more, bits) in [
        (TCP, vec![info(CTA_PROTOINFO_TCP, 3)], 0),
        (TCP, vec![info(CTA_PROTOINFO_TCP, 5)], 0),
        (TCP, vec![info(CTA_PROTOINFO_TCP, TCP_TIME_WAIT)], fins),
        (TCP, vec![info(CTA_PROTOINFO_TCP, TCP_CLOSE)], state::RESET),
        (SCTP, vec![info(CTA_PROTOINFO_SCTP, 4)], 0),
        (SCTP, vec![info(CTA_PROTOINFO_SCTP, SCTP_CLOSED)], state::RESET),
        (UDP, vec![], 0),
    ] {
        for (one, other) in [(POD, BACKEND), ("fd00::2", "fd00::3")] {
            let original = tuple(protocol, (one, 40000), (other, 80));
            let bytes = message(&original, &original.reversed(), 8 | IPS_SEEN_REPLY, &more);
            let wanted = connection(original, original.reversed(), state::REPLIED | bits);
            assert_eq!(Connection::parse(&bytes), Some(wanted));
            // Cut anywhere it is no connection, or one that is not known to be closed.
            for length in 0..bytes.len() {
                if let Some(cut) = Connection::parse(&bytes[..length]) {
                    assert_eq!(cut.original, original);
                    assert_eq!(cut.state & !state::REPLIED & !bits, 0);
                }
            }
        }
    }
    let original = tuple(UDP, (POD, 40000), (BACKEND, 80));
    let zone = DefaultNla::new(CTA_ZONE, vec![0, 7]);
    assert_eq!(
        Connection::parse(&message(&original, &original.reversed(), 0, &[zone])),
        None
    );
}

#[test]
fn an_echo_has_its_identifier_where_it_is_asked() {
    let ip = [
        DefaultNla::new(CTA_IP_V4_SRC, vec![10, 42, 0, 2]),
        DefaultNla::new(CTA_IP_V4_DST, vec![10, 42, 0, 3]),
    ];
    let read = |kind: u8| {
        let proto = [
            DefaultNla::new(CTA_PROTO_NUM, vec![ICMP]),
            DefaultNla::new(CTA_PROTO_ICMP_ID, vec![1, 2]),
            DefaultNla::new(CTA_PROTO_ICMP_TYPE, vec![kind]),
        ];
        let inner = [nested(CTA_TUPLE_IP, &ip), nested(CTA_TUPLE_PROTO, &proto)];
        let mut bytes = vec![0; inner.as_slice().buffer_len()];
        inner.as_slice().emit(&mut bytes);
        parse_tuple(&bytes)
    };
    assert_eq!(read(8), Some(tuple(ICMP, (POD, 0x0102), (BACKEND, 0))));
    assert_eq!(read(0), Some(tuple(ICMP, (POD, 0), (BACKEND, 0x0102))));
    assert_eq!(read(13), None, "timestamps are not tracked");
}
