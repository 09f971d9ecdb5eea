//! The lab's DNS server: A and AAAA answers from a zone file, over UDP and TCP.
//!
//! The zone is a JSON object, name -> list of addresses. It is read again for every question, so the
//! lab changes it with a rename and nothing has to be told. A file that cannot be read leaves the last
//! good one in force.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use simple_dns::rdata::{A, AAAA, RData};
use simple_dns::{CLASS, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
use socket2::Protocol;

use super::socket::{Datagrams, listen, spawn};

/// Names (lower case, no dot at the end) and their addresses.
pub type Zone = BTreeMap<String, Vec<IpAddr>>;

/// What fits into a UDP answer for a client that promises nothing.
const UDP_LIMIT: usize = 512;
/// Pods come and go quickly.
const TIME_TO_LIVE: u32 = 1;

/// Answers on port 53 until the process is killed.
///
/// # Errors
/// When the zone file cannot be read at the start or port 53 cannot be bound.
pub fn serve(zone_file: &Path) -> anyhow::Result<Infallible> {
    start(zone_file, 53)?;
    loop {
        thread::park();
    }
}

/// Answers on `port`, in background threads.
///
/// # Errors
/// As [`serve`].
pub fn start(zone_file: &Path, port: u16) -> anyhow::Result<()> {
    let zones = Arc::new(ZoneFile::open(zone_file)?);
    let datagrams = Datagrams::bind(port).with_context(|| format!("listen on UDP port {port}"))?;
    let listener = listen(Protocol::TCP, port).with_context(|| format!("listen on TCP port {port}"))?;
    let for_udp = Arc::clone(&zones);
    spawn(move || datagrams.answer(|question| answer(question, &for_udp.current(), UDP_LIMIT)))?;
    spawn(move || {
        loop {
            let Ok((stream, _)) = listener.accept() else {
                thread::sleep(Duration::from_millis(10));
                continue;
            };
            let zones = Arc::clone(&zones);
            if let Err(error) = spawn(move || drop(conversation(stream, &zones))) {
                eprintln!("a DNS connection is not answered: {error}");
            }
        }
    })?;
    Ok(())
}

/// Over TCP each message has its length in front.
fn conversation(mut stream: TcpStream, zones: &ZoneFile) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut question)?;
        let Some(answer) = answer(&question, &zones.current(), usize::from(u16::MAX)) else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), answer.as_slice()].concat())?;
    }
}

struct ZoneFile {
    path: PathBuf,
    last_good: Mutex<Arc<Zone>>,
}

impl ZoneFile {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let zone = read(path).with_context(|| format!("read the zone file {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            last_good: Mutex::new(Arc::new(zone)),
        })
    }

    fn current(&self) -> Arc<Zone> {
        let fresh = read(&self.path);
        let mut last_good = self.last_good.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(zone) = fresh {
            *last_good = Arc::new(zone);
        }
        Arc::clone(&last_good)
    }
}

fn read(path: &Path) -> anyhow::Result<Zone> {
    let zone: Zone = serde_json::from_slice(&std::fs::read(path)?)?;
    Ok(zone
        .into_iter()
        .map(|(name, addresses)| (canonical(&name), addresses))
        .collect())
}

fn canonical(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// The answer to one message, at most `limit` bytes long; `None` for what is not a question at all.
#[must_use]
pub fn answer(question: &[u8], zone: &Zone, limit: usize) -> Option<Vec<u8>> {
    let id = u16::from_be_bytes([*question.first()?, *question.get(1)?]);
    let Ok(query) = Packet::parse(question) else {
        let mut reply = Packet::new_reply(id);
        *reply.rcode_mut() = RCODE::FormatError;
        return reply.build_bytes_vec().ok();
    };
    if query.has_flags(PacketFlag::RESPONSE) {
        return None;
    }
    let mut reply = Packet::new_reply(id);
    reply.set_flags(PacketFlag::AUTHORITATIVE_ANSWER | PacketFlag::RECURSION_AVAILABLE);
    if query.has_flags(PacketFlag::RECURSION_DESIRED) {
        reply.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    for asked in &query.questions {
        match zone.get(&canonical(&asked.qname.to_string())) {
            None => *reply.rcode_mut() = RCODE::NameError,
            Some(addresses) => {
                let wanted = addresses
                    .iter()
                    .filter(|address| is_asked_for(**address, asked.qtype));
                reply.answers.extend(wanted.map(|address| {
                    ResourceRecord::new(asked.qname.clone(), CLASS::IN, TIME_TO_LIVE, record(*address))
                }));
            }
        }
    }
    reply.questions = query.questions;
    let bytes = reply.build_bytes_vec_compressed().ok()?;
    if bytes.len() <= limit {
        return Some(bytes);
    }
    // Too long: the client asks again over TCP.
    reply.answers.clear();
    reply.set_flags(PacketFlag::TRUNCATION);
    reply.build_bytes_vec_compressed().ok()
}

fn is_asked_for(address: IpAddr, asked: QTYPE) -> bool {
    let kind = if address.is_ipv4() { TYPE::A } else { TYPE::AAAA };
    asked == QTYPE::ANY || asked == QTYPE::TYPE(kind)
}

fn record(address: IpAddr) -> RData<'static> {
    match address {
        IpAddr::V4(address) => RData::A(A {
            address: address.to_bits(),
        }),
        IpAddr::V6(address) => RData::AAAA(AAAA {
            address: address.to_bits(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use simple_dns::{Name, QCLASS, Question};

    use super::*;

    fn zone() -> Zone {
        let addresses = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        Zone::from([
            (
                "db.shop.svc.cluster.local".to_owned(),
                addresses(&["10.96.0.7", "fd00::7"]),
            ),
            (
                "many.shop".to_owned(),
                (0..100).map(|n| IpAddr::from([10, 0, 0, n])).collect(),
            ),
        ])
    }

    fn ask(name: &str, kind: TYPE, limit: usize) -> (RCODE, Vec<RData<'static>>, bool) {
        let mut query = Packet::new_query(77);
        query.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new(name).unwrap();
        query.questions.push(Question::new(
            name,
            QTYPE::TYPE(kind),
            QCLASS::CLASS(CLASS::IN),
            false,
        ));
        let bytes = answer(&query.build_bytes_vec().unwrap(), &zone(), limit).unwrap();
        assert!(bytes.len() <= limit);
        let reply = Packet::parse(&bytes).unwrap();
        assert_eq!((reply.id(), reply.questions.len()), (77, 1));
        let answers = reply
            .answers
            .iter()
            .map(|record| record.rdata.clone().into_owned())
            .collect();
        (reply.rcode(), answers, reply.has_flags(PacketFlag::TRUNCATION))
    }

    #[test]
    fn each_type_gets_its_addresses_in_any_case() {
        let (code, answers, _) = ask("DB.shop.svc.Cluster.LOCAL", TYPE::A, 512);
        assert_eq!(
            (code, answers),
            (RCODE::NoError, vec![record([10, 96, 0, 7].into())])
        );
        let (_, answers, _) = ask("db.shop.svc.cluster.local", TYPE::AAAA, 512);
        assert_eq!(answers, vec![record("fd00::7".parse().unwrap())]);
        assert_eq!(ask("db.shop.svc.cluster.local", TYPE::MX, 512).1, vec![]);
    }

    #[test]
    fn an_unknown_name_does_not_exist() {
        assert_eq!(ask("nobody.shop", TYPE::A, 512).0, RCODE::NameError);
    }

    #[test]
    fn a_long_answer_is_cut_for_udp_only() {
        assert_eq!(
            (
                ask("many.shop", TYPE::A, 512).1.len(),
                ask("many.shop", TYPE::A, 512).2
            ),
            (0, true)
        );
        assert_eq!(
            (
                ask("many.shop", TYPE::A, 65535).1.len(),
                ask("many.shop", TYPE::A, 65535).2
            ),
            (100, false)
        );
    }

    #[test]
    fn rubbish_and_answers_are_not_answered_with_addresses() {
        assert_eq!(answer(b"x", &zone(), 512), None);
        let bytes = answer(&[0, 9, 1], &zone(), 512).unwrap();
        assert_eq!(Packet::parse(&bytes).unwrap().rcode(), RCODE::FormatError);
        let reply = Packet::new_reply(3).build_bytes_vec().unwrap();
        assert_eq!(
            answer(&reply, &zone(), 512),
            None,
            "two servers must not talk for ever"
        );
    }
}
