//! Signals that come while the kernel verifies the programs.

use std::{thread, time::Duration};

use nix::sys::{
    pthread::{pthread_kill, pthread_self},
    signal::Signal,
};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};
use vethwall_tests::sandbox;

use super::load;

#[test]
fn signals_break_no_load() {
    sandbox::run(|| {
        // Without a handler a signal would end the process, or not be pending for a moment.
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let handler = runtime
            .block_on(async { signal(SignalKind::user_defined2()) })
            .unwrap();
        let loader = pthread_self();
        thread::scope(|scope| {
            // Each ends one attempt at most, and a program has more: five, of which aya makes two each.
            scope.spawn(move || {
                for _ in 0..9 {
                    thread::sleep(Duration::from_millis(40));
                    pthread_kill(loader, Signal::SIGUSR2).unwrap();
                }
            });
            drop(load());
        });
        drop(handler);
    });
}
