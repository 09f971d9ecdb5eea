//! Reads what the programs tell of their verdicts.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use aya::maps::{MapData, RingBuf};
use vethwall_common::event::Event;
use zerocopy::FromBytes;

/// The reading end of the ring buffer. Its descriptor becomes readable when there is an event, so it can wait in poll
/// or in tokio's `AsyncFd`; take events until there is none before waiting again.
pub struct Events {
    ring: RingBuf<MapData>,
}

impl Events {
    pub(crate) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }
}

/// The events that are there; does not wait, and may go on after it has ended.
impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        while let Some(record) = self.ring.next() {
            // Only one type of record is ever written; a future one may be longer.
            if let Ok((event, _)) = Event::read_from_prefix(&record) {
                return Some(event);
            }
        }
        None
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("fd", &self.as_raw_fd()).finish()
    }
}
