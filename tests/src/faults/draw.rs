//! Which faults, from a seed: pure.

use std::{fmt, time::Duration};

use clap::ValueEnum;

use crate::dice::Dice;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// The agent is killed, and starts again.
    AgentKilled,
    /// An agent of the next version of the map layouts takes over, and gives back. Its plugin is ours: no pod starts meanwhile.
    AgentUpgraded,
    /// The agent is killed, and the next one's clocks since boot are hours away.
    ClockJump,
    /// The plugin's file is deleted.
    PluginDeleted,
    /// Flannel's list is written again, in place, as its init container does.
    FlannelRewrites,
    /// Flannel's list is written again and the runtime started anew, as k3s does.
    K3sRestarts,
    /// A list that can not be parsed comes first.
    BrokenFirst,
    /// containerd is killed, and starts again.
    RuntimeKilled,
    /// The disk of the lists is full while flannel writes its own, which is empty then.
    DiskFull,
    /// The bridge is deleted, and made anew with its ports.
    BridgeDeleted,
    /// The file system with the pins is unmounted.
    BpffsUnmounted,
    /// Pods come and go at once.
    Crowd,
    /// Power is lost: processes, interfaces, /run and pins are gone; the lists, plugins and /var are not.
    Reboot,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::AgentKilled,
        Self::AgentUpgraded,
        Self::ClockJump,
        Self::PluginDeleted,
        Self::FlannelRewrites,
        Self::K3sRestarts,
        Self::BrokenFirst,
        Self::RuntimeKilled,
        Self::DiskFull,
        Self::BridgeDeleted,
        Self::BpffsUnmounted,
        Self::Crowd,
        Self::Reboot,
    ];

    /// How often it is drawn, beside the others. Those that take long are rare.
    fn weight(self) -> usize {
        match self {
            Self::Crowd => 1,
            Self::Reboot => 3,
            Self::AgentKilled
            | Self::AgentUpgraded
            | Self::ClockJump
            | Self::PluginDeleted
            | Self::FlannelRewrites
            | Self::K3sRestarts
            | Self::BrokenFirst
            | Self::RuntimeKilled
            | Self::DiskFull
            | Self::BridgeDeleted
            | Self::BpffsUnmounted => 10,
        }
    }

    /// Whether it leaves no room for others in its round.
    fn alone(self) -> bool {
        matches!(self, Self::Crowd | Self::Reboot)
    }

    /// Two faults of one process, or of one file, can not act at once; nor can the agent go while it is what keeps the pins.
    fn on(self) -> Option<&'static str> {
        match self {
            Self::AgentKilled | Self::AgentUpgraded | Self::ClockJump | Self::BpffsUnmounted => Some("agent"),
            Self::K3sRestarts | Self::RuntimeKilled => Some("runtime"),
            Self::PluginDeleted
            | Self::FlannelRewrites
            | Self::BrokenFirst
            | Self::DiskFull
            | Self::BridgeDeleted
            | Self::Crowd
            | Self::Reboot => None,
        }
    }
}

/// Faults that act together.
#[derive(Clone, Debug)]
pub struct Round {
    /// In the order in which they begin, and end.
    pub faults: Vec<Fault>,
    /// How long they last, once all have begun.
    pub lasts: Duration,
    /// Whether a pod starts meanwhile.
    pub pod: bool,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pod = if self.pod { ", a pod starts" } else { "" };
        write!(f, "{:?} for {} ms{pod}", self.faults, self.lasts.as_millis())
    }
}

/// Rounds with so many faults of these kinds in all. The first ones hold each kind once, so that a short run does too.
pub fn rounds(seed: u64, faults: usize, kinds: &[Fault]) -> Vec<Round> {
    let mut dice = Dice::new(seed);
    let mut left = kinds.to_vec();
    let mut rounds = Vec::new();
    let mut drawn = 0;
    while drawn < faults {
        let size = (1 + dice.below(4)).min(faults - drawn);
        let mut round: Vec<Fault> = Vec::new();
        while round.len() < size {
            let fault = if left.is_empty() {
                any(&mut dice, kinds)
            } else {
                left.swap_remove(dice.below(left.len()))
            };
            let clash = fault.alone()
                || round.iter().any(|other| {
                    *other == fault || other.alone() || (other.on().is_some() && other.on() == fault.on())
                });
            if round.is_empty() || !clash {
                round.push(fault);
            } else {
                if drawn + round.len() < kinds.len() {
                    left.push(fault);
                }
                break;
            }
        }
        drawn += round.len();
        // The others can write what they have to.
        round.sort_by_key(|fault| *fault == Fault::DiskFull);
        rounds.push(Round {
            faults: round,
            lasts: Duration::from_millis(50 * dice.below(10) as u64),
            pod: dice.percent(50),
        });
    }
    rounds
}

fn any(dice: &mut Dice, kinds: &[Fault]) -> Fault {
    let total = kinds.iter().map(|fault| fault.weight()).sum();
    let mut at = dice.below(total);
    for fault in kinds.iter().copied() {
        match at.checked_sub(fault.weight()) {
            None => return fault,
            Some(rest) => at = rest,
        }
    }
    Fault::AgentKilled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_run() {
        for seed in 0..200 {
            let text = |faults| {
                rounds(seed, faults, &Fault::ALL)
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
            };
            assert_eq!(text(300), text(300));
            let drawn: Vec<Fault> = rounds(seed, 300, &Fault::ALL)
                .into_iter()
                .flat_map(|round| round.faults)
                .collect();
            assert_eq!(drawn.len(), 300);
            // As many as there are kinds: each once.
            let first = rounds(seed, Fault::ALL.len(), &Fault::ALL);
            let kinds: std::collections::BTreeSet<Fault> =
                first.into_iter().flat_map(|round| round.faults).collect();
            assert_eq!(kinds.len(), Fault::ALL.len(), "seed {seed}: {kinds:?}");
        }
    }
}
