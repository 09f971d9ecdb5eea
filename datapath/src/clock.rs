//! The programs' clock: a tick is 2^[`TICK_SHIFT`] jiffies, and a jiffy is what the kernel was configured for.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use nix::time::{ClockId, clock_getres};
use vethwall_common::flow::TICK_SHIFT;

use crate::{Error, sys};

/// The programs' time, in ticks, asked of the kernel as the programs ask (`bpf_jiffies64`, Linux 5.6): no clock of user space
/// is sure to agree with jiffies, and an entry from the future would count as expired.
#[derive(Debug)]
pub(crate) struct ProgramTime(OwnedFd);

impl ProgramTime {
    /// Loads the program that tells it.
    pub(crate) fn load() -> Result<Self, Error> {
        const CALL: u8 = 0x85;
        const SHIFT_RIGHT: u8 = 0x77;
        const EXIT: u8 = 0x95;
        const JIFFIES64: u32 = 118;
        // r0 = bpf_jiffies64(); r0 >>= TICK_SHIFT; return r0
        let instruction = |code: u8, immediate: u32| {
            let [a, b, c, d] = immediate.to_ne_bytes();
            [code, 0, 0, 0, a, b, c, d]
        };
        let program = sys::program_load(&[
            instruction(CALL, JIFFIES64),
            instruction(SHIFT_RIGHT, TICK_SHIFT),
            instruction(EXIT, 0),
        ]);
        program
            .map(Self)
            .map_err(|e| Error::bpf("load", "the programs' clock", e))
    }

    /// Now.
    pub(crate) fn now(&self) -> Result<u32, Error> {
        sys::program_test_run(self.0.as_fd(), &[0; 64])
            .map_err(|e| Error::bpf("ask", "the programs' clock", e))
    }
}

/// How long a tick lasts on this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    jiffy: Duration,
}

impl Clock {
    /// Asks the kernel: its coarse clocks advance once a jiffy, and their resolution says how long that is
    /// (`KTIME_LOW_RES` is `TICK_NSEC`, kernel/time/hrtimer.c). No configuration file need be readable.
    pub fn measure() -> Result<Self, Error> {
        let failed = |e: io::Error| Error::file("read the resolution of", "the kernel's coarse clock", e);
        let resolution = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_err(|e| failed(e.into()))?;
        let jiffy = Duration::from(resolution);
        if jiffy.is_zero() || jiffy > Duration::from_millis(100) {
            return Err(failed(io::Error::other(format!(
                "{jiffy:?} is no length of a jiffy"
            ))));
        }
        Ok(Self { jiffy })
    }

    /// A clock with a given HZ, for tests.
    pub fn with_hz(hz: u32) -> Self {
        Self {
            jiffy: Duration::from_secs(1) / hz.max(1),
        }
    }

    /// The kernel's HZ.
    pub fn hz(&self) -> u32 {
        (1.0 / self.jiffy.as_secs_f64()).round() as u32
    }

    /// One tick.
    pub fn tick(&self) -> Duration {
        self.jiffy * (1 << TICK_SHIFT)
    }

    /// As many ticks as last at least this long, at least one.
    pub fn ticks(&self, time: Duration) -> u32 {
        let ticks = time.as_nanos().div_ceil(self.tick().as_nanos().max(1));
        u32::try_from(ticks).unwrap_or(u32::MAX).max(1)
    }

    /// How long so many ticks last.
    pub fn duration(&self, ticks: u32) -> Duration {
        self.tick() * ticks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_one_of_the_known_rates() {
        let clock = Clock::measure().expect("every kernel has this clock");
        assert!([100, 250, 300, 1000].contains(&clock.hz()), "{clock:?}");
    }

    #[test]
    fn a_time_is_never_cut_short() {
        for hz in [100, 250, 300, 1000] {
            let clock = Clock::with_hz(hz);
            for seconds in [0, 1, 30, 60, 86_400, 432_000] {
                let time = Duration::from_secs(seconds);
                let ticks = clock.ticks(time);
                assert!(ticks >= 1);
                assert!(clock.duration(ticks) >= time, "{hz} {seconds}");
                assert!(
                    clock.duration(ticks - 1) <= time.max(clock.tick()),
                    "{hz} {seconds}"
                );
            }
        }
        assert_eq!(Clock::with_hz(250).ticks(Duration::from_secs(60)), 59);
    }
}
