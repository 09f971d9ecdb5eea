//! What a run has counted.

use std::{collections::BTreeMap, fmt, ops::AddAssign};

use super::Fault;

/// Counts of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How often each fault acted.
    pub faults: BTreeMap<Fault, u64>,
    /// Rounds that were checked.
    pub rounds: u64,
    /// Pods that were started while faults acted, and ran.
    pub started: u64,
    /// Pods whose start was refused while faults acted, by the fault that explains it.
    pub refused: BTreeMap<Fault, u64>,
    /// Addresses of such pods that the runtime forgot, because the plugin was missing when it took them down.
    pub forgotten: u64,
    /// Messages that policy allows: sent.
    pub allowed_sent: u64,
    /// Arrived.
    pub allowed_arrived: u64,
    /// Messages that policy forbids: sent.
    pub forbidden_sent: u64,
    /// Packets that came to the receivers' own interfaces: such as policy allows.
    pub packets_allowed: u64,
    /// Such as policy forbids.
    pub packets_forbidden: u64,
    /// Lines of the connection that lives.
    pub talked: u64,
}

impl AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        for (all, new) in [
            (&mut self.faults, other.faults),
            (&mut self.refused, other.refused),
        ] {
            for (fault, times) in new {
                *all.entry(fault).or_default() += times;
            }
        }
        self.rounds += other.rounds;
        self.started += other.started;
        self.forgotten += other.forgotten;
        self.allowed_sent += other.allowed_sent;
        self.allowed_arrived += other.allowed_arrived;
        self.forbidden_sent += other.forbidden_sent;
        self.packets_allowed += other.packets_allowed;
        self.packets_forbidden += other.packets_forbidden;
        self.talked += other.talked;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (fault, times) in &self.faults {
            write!(f, "{:<16} {times:>6}", format!("{fault:?}"))?;
            match self.refused.get(fault) {
                Some(refused) => writeln!(f, "   refused a pod {refused} times")?,
                None => writeln!(f)?,
            }
        }
        writeln!(
            f,
            "{} faults in {} rounds; pods meanwhile: {} ran, {} were refused, the runtime forgot {} addresses",
            self.faults.values().sum::<u64>(),
            self.rounds,
            self.started,
            self.refused.values().sum::<u64>(),
            self.forgotten
        )?;
        write!(
            f,
            "messages that senders have told of: {} allowed, {} forbidden; {} arrived\n\
             packets at the receivers' interfaces: {} allowed, {} forbidden\n\
             lines of the connection that lives: {}",
            self.allowed_sent,
            self.forbidden_sent,
            self.allowed_arrived,
            self.packets_allowed,
            self.packets_forbidden,
            self.talked
        )
    }
}
