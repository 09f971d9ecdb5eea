//! Chains of netfilter that others have made: whether somebody else enforces policies on this node, too.
//!
//! ```text
//! nftables (iptables-nft too) ── netlink dump of chains ─────────────┐
//! iptables-legacy ── getsockopt, only for tables that exist already ─┴─► names of chains
//! ```
//!
//! Nothing is changed. To ask for a legacy table that nobody has used would make it, so `/proc/net/ip_tables_names` is read
//! first.

#![expect(unsafe_code, reason = "getsockopt(2) of ip_tables has no wrapper")]

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use nix::{
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

use crate::{
    Error,
    netlink::{Socket, attribute, text},
};

/// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_GETCHAIN`, `NFT_MSG_NEWCHAIN` (linux/netfilter/nfnetlink.h, nf_tables.h).
const GET_CHAIN: u16 = 10 << 8 | 4;
const NEW_CHAIN: u16 = 10 << 8 | 3;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;

/// A chain, by the names of its table and its own. The same name in IPv4 and IPv6 is one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chain {
    /// `filter` with iptables.
    pub table: String,
    /// Its own.
    pub name: String,
}

/// The chains of all nftables tables, and the ones that users made in the legacy `filter` tables. Needs CAP_NET_ADMIN. A kernel
/// without either has none.
///
/// # Errors
///
/// The kernel refused, or answered what is not understood.
pub fn chains() -> Result<BTreeSet<Chain>, Error> {
    let mut chains = nftables().map_err(|e| Error::net("list", "chains of nftables", e))?;
    for family in [&V4, &V6] {
        let found = family
            .chains()
            .map_err(|e| Error::net("list", family.object, e))?;
        let table = || FILTER.to_owned();
        chains.extend(found.into_iter().map(|name| Chain { table: table(), name }));
    }
    Ok(chains)
}

fn nftables() -> io::Result<BTreeSet<Chain>> {
    // struct nfgenmsg: family (all), version, resource
    let body = [0_u8; 4];
    let mut chains = BTreeSet::new();
    let outcome = Socket::netfilter()?.ask(GET_CHAIN, libc::NLM_F_DUMP, &body, &[], |kind, payload| {
        if kind == NEW_CHAIN {
            let attributes = payload.get(4..).unwrap_or_default();
            let named = |kind| attribute(attributes, kind).map(text);
            if let (Some(table), Some(name)) = (named(NFTA_CHAIN_TABLE), named(NFTA_CHAIN_NAME)) {
                chains.insert(Chain { table, name });
            }
        }
    });
    match outcome {
        // No nf_tables in this kernel, or not loaded.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            Ok(BTreeSet::new())
        }
        outcome => outcome.map(|()| chains),
    }
}

const FILTER: &str = "filter";

/// How ip_tables or ip6_tables tells what a table holds (linux/netfilter_ipv4/ip_tables.h, netfilter_ipv6/ip6_tables.h).
struct Family {
    object: &'static str,
    names: &'static str,
    domain: AddressFamily,
    level: libc::c_int,
    /// Where in an entry the offsets of its target and of the next entry are.
    offsets: usize,
}

const V4: Family = Family {
    object: "chains of the iptables table filter",
    names: "/proc/thread-self/net/ip_tables_names",
    domain: AddressFamily::Inet,
    level: libc::SOL_IP,
    // struct ipt_ip, nfcache
    offsets: 84 + 4,
};

const V6: Family = Family {
    object: "chains of the ip6tables table filter",
    names: "/proc/thread-self/net/ip6_tables_names",
    domain: AddressFamily::Inet6,
    level: libc::SOL_IPV6,
    // struct ip6t_ip6, nfcache
    offsets: 136 + 4,
};

/// `IPT_SO_GET_INFO`, `IP6T_SO_GET_INFO`.
const GET_INFO: libc::c_int = 64;
/// `IPT_SO_GET_ENTRIES`, `IP6T_SO_GET_ENTRIES`.
const GET_ENTRIES: libc::c_int = 65;
/// struct ipt_getinfo: name, hooks, entry points and underflows of five hooks, number of entries, size.
const INFO: usize = 32 + 4 + 20 + 20 + 4 + 4;
/// struct ipt_get_entries before the entries: name, size, aligned to eight.
const HEAD: usize = 40;

impl Family {
    fn chains(&self) -> io::Result<Vec<String>> {
        match fs::read_to_string(Path::new(self.names)) {
            Ok(tables) if tables.lines().any(|table| table == FILTER) => {}
            Ok(_) => return Ok(Vec::new()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
        // Any kind of socket may ask; a raw one would need CAP_NET_RAW, which the agent has not.
        let socket = socket(self.domain, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        // Between the two questions somebody may have written the table anew, of another size: EAGAIN.
        const TRIES: usize = 5;
        let mut outcome = Ok(Vec::new());
        for _ in 0..TRIES {
            outcome = self.entries(&socket);
            if !matches!(&outcome, Err(error) if error.raw_os_error() == Some(libc::EAGAIN)) {
                break;
            }
        }
        chain_heads(&outcome?, self.offsets).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the table's entries are not understood",
            )
        })
    }

    fn entries(&self, socket: &OwnedFd) -> io::Result<Vec<u8>> {
        let mut info = vec![0_u8; INFO];
        info[..FILTER.len()].copy_from_slice(FILTER.as_bytes());
        get(socket, self.level, GET_INFO, &mut info)?;
        let size = info[INFO - 4..].try_into().map(u32::from_ne_bytes);
        let size = size.map_err(io::Error::other)?;
        let mut answer = vec![0_u8; HEAD + size as usize];
        answer[..FILTER.len()].copy_from_slice(FILTER.as_bytes());
        answer[32..36].copy_from_slice(&size.to_ne_bytes());
        get(socket, self.level, GET_ENTRIES, &mut answer)?;
        Ok(answer.split_off(HEAD))
    }
}

fn get(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, answer: &mut [u8]) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(answer.len()).map_err(io::Error::other)?;
    let buffer = answer.as_mut_ptr().cast();
    // SAFETY: the kernel reads and writes `length` bytes of the buffer at most, and it is as long.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, buffer, &raw mut length) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A user's chain begins with an entry whose target is `ERROR` with the chain's name, and the table ends with one that has the
/// name `ERROR` itself (struct xt_error_target). `None`: these are no entries.
fn chain_heads(mut entries: &[u8], offsets: usize) -> Option<Vec<String>> {
    // struct xt_entry_target: size, name of 29 bytes, revision
    const TARGET: usize = 32;
    const ERROR: &str = "ERROR";
    let mut names = Vec::new();
    while !entries.is_empty() {
        let offset = |at: usize| {
            let bytes = entries.get(at..at + 2)?;
            Some(usize::from(u16::from_ne_bytes(bytes.try_into().ok()?)))
        };
        let (target, next) = (offset(offsets)?, offset(offsets + 2)?);
        if next == 0 || target >= next {
            return None;
        }
        let target = entries.get(target..next)?;
        if text(target.get(2..TARGET - 1)?) == ERROR {
            let name = text(target.get(TARGET..)?);
            if name != ERROR {
                names.push(name);
            }
        }
        entries = entries.get(next..)?;
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry of a target, as ip_tables has it.
    fn entry(target: &str, data: &str) -> Vec<u8> {
        let next = 112 + 32 + 32_u16;
        let mut entry = vec![0; next.into()];
        entry[V4.offsets..V4.offsets + 2].copy_from_slice(&112_u16.to_ne_bytes());
        entry[V4.offsets + 2..V4.offsets + 4].copy_from_slice(&next.to_ne_bytes());
        entry[114..114 + target.len()].copy_from_slice(target.as_bytes());
        entry[144..144 + data.len()].copy_from_slice(data.as_bytes());
        entry
    }

    #[test]
    fn chains_are_told_from_rules_and_from_the_end() {
        let table = [
            entry("", ""),
            entry("ERROR", "KUBE-ROUTER-FORWARD"),
            entry("REJECT", "KUBE-X"),
            entry("ERROR", "ERROR"),
        ];
        assert_eq!(
            chain_heads(&table.concat(), V4.offsets).unwrap(),
            ["KUBE-ROUTER-FORWARD"]
        );
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let whole = entry("ERROR", "KUBE-ROUTER-FORWARD");
        for cut in 1..whole.len() {
            assert_eq!(chain_heads(&whole[..cut], V4.offsets), None, "{cut}");
        }
        assert_eq!(
            chain_heads(&[0; 176], V4.offsets),
            None,
            "an entry without an end"
        );
    }
}
