//! What the programs are told of the node: what the agent was asked to do, and how long connections live.

use std::{fs, time::Duration};

use tracing::{info, warn};
use vethwall_common::config::Config;
use vethwall_datapath::{Clock, Maps};

use crate::api::settings::{ExistingConnections, OwnNodeEgress, Settings};

/// kube-proxy's day for established TCP (`--conntrack-tcp-timeout-established`). The kernel's five days are more than a
/// table of bounded size should promise.
const DAY: u64 = 24 * 60 * 60;

/// Tells the programs lifetimes that changed: whoever raises the kernel's wants idle connections to go on.
pub(super) fn follow_sysctls(maps: &mut impl Maps, settings: Settings, clock: Clock) {
    let written = maps.config().and_then(|before| {
        let config = config(&before, settings, clock, &sysctl);
        if config == before {
            return Ok(());
        }
        info!("lifetimes of connections follow the kernel's");
        maps.set_config(&config)
    });
    if let Err(error) = written {
        warn!(
            "can not tell the programs how long connections live: {}",
            error.chain()
        );
    }
}

/// A number below /proc/sys/net/netfilter of this network namespace; `None` where connection tracking is not loaded.
pub(super) fn sysctl(name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/sys/net/netfilter/{name}")).ok()?;
    text.trim().parse().ok()
}

/// What the programs are to know, given what they know. Whether the bridge's program is there outlives an agent; the first
/// look at the bridge tells better.
///
/// Flows live at least as long as the kernel's own connection tracking has them, and never shorter than its defaults
/// (Documentation/networking/nf_conntrack-sysctl.rst): a reply that the kernel recognises is one for the programs too. A
/// packet may come at the end of a tick: one more makes sure of the time.
pub(super) fn config(
    before: &Config,
    settings: Settings,
    clock: Clock,
    sysctl: &dyn Fn(&str) -> Option<u64>,
) -> Config {
    let lifetime = |least: u64, names: &[&str]| {
        let kernel = names
            .iter()
            .filter_map(|name| sysctl(&format!("nf_conntrack_{name}")));
        let seconds = kernel.max().unwrap_or_default().max(least).min(DAY);
        clock.ticks(Duration::from_secs(seconds)) + 1
    };
    let mut flags = Config::EVENTS | before.flags & (Config::BRIDGE | Config::OVERFLOW);
    match settings.existing_connections {
        ExistingConnections::Rejudge => {}
        ExistingConnections::Keep => flags |= Config::KEEP_CONNECTIONS,
    }
    match settings.own_node_egress {
        OwnNodeEgress::Policy => {}
        OwnNodeEgress::Allow => flags |= Config::OWN_NODE_EGRESS,
    }
    Config {
        flags,
        tcp_established: lifetime(DAY, &["tcp_timeout_established"]),
        tcp_unreplied: lifetime(60, &["tcp_timeout_syn_sent"]),
        tcp_closing: lifetime(
            120,
            &[
                "tcp_timeout_time_wait",
                "tcp_timeout_last_ack",
                "tcp_timeout_close",
            ],
        ),
        udp_established: lifetime(180, &["udp_timeout_stream"]),
        udp_unreplied: lifetime(30, &["udp_timeout"]),
        sctp_established: lifetime(210, &["sctp_timeout_established"]),
        other: lifetime(30, &["icmp_timeout", "icmpv6_timeout"]),
        ..*before
    }
}

/// Whether connections that were admitted under the old settings may be forbidden under the new ones. Connections that an
/// older policy admitted are judged again by themselves, once they are no longer kept.
pub(super) fn denies_more(before: &Config, now: &Config) -> bool {
    before.flags & !now.flags & Config::OWN_NODE_EGRESS != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(settings: Settings, sysctl: &dyn Fn(&str) -> Option<u64>) -> Config {
        let before = Config {
            abi: 1,
            flags: Config::BRIDGE_V4 | Config::OVERFLOW | Config::KEEP_CONNECTIONS | Config::OWN_NODE_EGRESS,
            ..Config::default()
        };
        // A tick of a second.
        config(&before, settings, Clock::with_hz(256), sysctl)
    }

    #[test]
    fn settings_become_flags_and_the_bridges_stay() {
        let kept = Config::EVENTS | Config::BRIDGE_V4 | Config::OVERFLOW;
        let nothing = |_: &str| None;
        let usual = told(Settings::default(), &nothing);
        assert_eq!((usual.flags, usual.abi), (kept, 1));
        let other = Settings {
            existing_connections: ExistingConnections::Keep,
            own_node_egress: OwnNodeEgress::Allow,
            ..Settings::default()
        };
        let other = told(other, &nothing);
        assert_eq!(
            other.flags,
            kept | Config::KEEP_CONNECTIONS | Config::OWN_NODE_EGRESS
        );
        assert!(denies_more(&other, &usual) && !denies_more(&usual, &other));
        assert!(!denies_more(&usual, &usual));
    }

    // Covers: SEMANTICS 45
    #[test]
    fn a_flow_lives_at_least_as_long_as_the_kernels() {
        let least = told(Settings::default(), &|_| None);
        assert_eq!((least.udp_unreplied, least.udp_established), (31, 181));
        assert_eq!((least.tcp_unreplied, least.tcp_closing), (61, 121));
        assert_eq!((least.sctp_established, least.other), (211, 31));
        let shorter = told(Settings::default(), &|_| Some(1));
        assert_eq!(shorter, least);
        let longer = told(Settings::default(), &|name| match name {
            "nf_conntrack_udp_timeout" => Some(90),
            "nf_conntrack_udp_timeout_stream" => Some(1000),
            "nf_conntrack_icmpv6_timeout" => Some(40),
            "nf_conntrack_tcp_timeout_close" => Some(130),
            "nf_conntrack_tcp_timeout_established" => Some(432_000),
            _ => None,
        });
        let day = 24 * 60 * 60 + 1;
        assert_eq!(
            longer,
            Config {
                udp_unreplied: 91,
                udp_established: 1001,
                other: 41,
                tcp_closing: 131,
                tcp_established: day,
                ..least
            }
        );
        assert_eq!(least.tcp_established, day);
    }
}
