//! The cluster's DNS: what `SERVICE.NAMESPACE.svc.cluster.local` and pods' names stand for.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use simple_dns::{
    CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord, TYPE,
    rdata::{A, AAAA, RData},
};

use super::{flannel, proxy, state::State};

/// Addresses by name, lower case, without the last dot.
pub(super) type Table = BTreeMap<String, Vec<IpAddr>>;

/// The names in a file, read again when it changes.
#[derive(Clone, Debug)]
pub(super) struct Names {
    path: PathBuf,
    read: Arc<Mutex<(Option<SystemTime>, Table)>>,
}

impl Names {
    /// The names in a file.
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            read: Arc::default(),
        }
    }

    fn get(&self, name: &str) -> Option<Vec<IpAddr>> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = fs::metadata(&self.path).and_then(|data| data.modified()).ok();
        if changed != read.0
            && let Some(table) = fs::read(&self.path)
                .ok()
                .and_then(|text| serde_json::from_slice(&text).ok())
        {
            *read = (changed, table);
        }
        read.1.get(&name.to_lowercase()).cloned()
    }
}

/// What the cluster's names stand for.
pub(super) fn table(state: &State) -> Table {
    let mut table = Table::new();
    for service in state.services.values() {
        let name = format!("{}.{}.svc.cluster.local", service.name, service.namespace);
        let mut addresses = service.addresses.clone();
        if addresses.is_empty() {
            for pod in proxy::endpoints(state, service) {
                addresses.extend(&pod.addresses);
                table.insert(format!("{}.{name}", pod.name), pod.addresses.clone());
            }
        }
        table.insert(name, addresses);
    }
    for pod in state.pods.values().filter(|pod| pod.running()) {
        for address in &pod.addresses {
            let dashed = address.to_string().replace(['.', ':'], "-");
            table.insert(
                format!("{dashed}.{}.pod.cluster.local", pod.namespace),
                vec![*address],
            );
        }
        table.insert(
            format!("{}.{}.pod.cluster.local", pod.name, pod.namespace),
            pod.addresses.clone(),
        );
    }
    let outside = [
        (state.families.v4(), flannel::OUTSIDE4),
        (state.families.v6(), flannel::OUTSIDE6),
    ];
    let outside = outside
        .iter()
        .filter(|(there, _)| *there)
        .filter_map(|(_, text)| text.parse().ok())
        .collect();
    table.insert("outside.example".to_owned(), outside);
    table
}

/// The answer to a question; none if it is none.
pub(super) fn answer(question: &[u8], names: &Names) -> Option<Vec<u8>> {
    let packet = Packet::parse(question).ok()?;
    // Two servers that answered each other's answers would never end.
    if packet.has_flags(PacketFlag::RESPONSE) {
        return None;
    }
    let mut reply = Packet::new_reply(packet.id());
    reply.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
    if packet.has_flags(PacketFlag::RECURSION_DESIRED) {
        reply.set_flags(PacketFlag::RECURSION_DESIRED | PacketFlag::RECURSION_AVAILABLE);
    }
    for question in &packet.questions {
        match names.get(&question.qname.to_string()) {
            None => *reply.rcode_mut() = RCODE::NameError,
            Some(addresses) => {
                for address in addresses {
                    let data = match (address, question.qtype) {
                        (IpAddr::V4(v4), QTYPE::TYPE(TYPE::A) | QTYPE::ANY) => RData::A(A::from(v4)),
                        (IpAddr::V6(v6), QTYPE::TYPE(TYPE::AAAA) | QTYPE::ANY) => RData::AAAA(AAAA::from(v6)),
                        _ => continue,
                    };
                    reply
                        .answers
                        .push(ResourceRecord::new(question.qname.clone(), CLASS::IN, 5, data));
                }
            }
        }
        reply.questions.push(question.clone());
    }
    reply.build_bytes_vec_compressed().ok()
}

/// A question of one type.
pub(super) fn question(name: &str, kind: TYPE) -> Result<Vec<u8>> {
    let mut packet = Packet::new_query(0x7657);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name).with_context(|| format!("{name} is no name"))?;
    packet.questions.push(Question::new(
        name,
        QTYPE::TYPE(kind),
        QCLASS::CLASS(CLASS::IN),
        false,
    ));
    Ok(packet.build_bytes_vec()?)
}

/// `vethwall-lab resolve`: asks the name server of /etc/resolv.conf, trying its search list.
pub(super) fn resolve(name: &str) -> Result<Vec<IpAddr>> {
    let text = fs::read_to_string(Path::new("/etc/resolv.conf")).context("read /etc/resolv.conf")?;
    let mut servers: Vec<IpAddr> = Vec::new();
    let mut candidates = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => servers.extend(words.filter_map(|word| word.parse::<IpAddr>().ok())),
            Some("search") if !name.ends_with('.') => {
                candidates.extend(words.map(|word| format!("{name}.{word}")))
            }
            Some(_) | None => {}
        }
    }
    candidates.push(name.trim_end_matches('.').to_owned());
    if name.matches('.').count() >= 5 {
        candidates.reverse();
    }
    let server = *servers
        .first()
        .context("no name server: the cluster has no Service kube-system/kube-dns")?;
    for candidate in candidates {
        let mut known = false;
        let mut found = Vec::new();
        for kind in [TYPE::A, TYPE::AAAA] {
            let reply = exchange(server, &question(&candidate, kind)?)?;
            let packet = Packet::parse(&reply).context("the name server's answer")?;
            known |= packet.rcode() == RCODE::NoError;
            for record in &packet.answers {
                if let RData::A(a) = &record.rdata {
                    found.push(IpAddr::from(Ipv4Addr::from(a.address)));
                } else if let RData::AAAA(aaaa) = &record.rdata {
                    found.push(IpAddr::from(Ipv6Addr::from(aaaa.address)));
                }
            }
        }
        if known && !found.is_empty() {
            return Ok(found);
        }
    }
    bail!("{name}: no such name")
}

fn exchange(server: IpAddr, question: &[u8]) -> Result<Vec<u8>> {
    let local = if server.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(local)?;
    socket.connect(SocketAddr::new(server, 53))?;
    socket.set_read_timeout(Some(Duration::from_millis(700)))?;
    for _ in 0..3 {
        let mut buffer = [0; 4096];
        if socket.send(question).is_ok()
            && let Ok(length) = socket.recv(&mut buffer)
        {
            return Ok(buffer.get(..length).unwrap_or_default().to_vec());
        }
    }
    bail!("the name server {server} does not answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_answered_and_the_answer_is_not() {
        let nothing = Names::new(PathBuf::from("/nonexistent"));
        let question = question("probe.cluster.local", TYPE::A).unwrap();
        let reply = answer(&question, &nothing).unwrap();
        assert_eq!(answer(&reply, &nothing), None);
    }
}
