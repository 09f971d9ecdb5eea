//! `make demo`: what vethwall does, shown with real traffic.

use std::{io::Write as _, process::ExitCode, thread};

use vethwall_tests::demo;

const LAB: &str = "demo";

fn main() -> ExitCode {
    let mut say = |text: &str| {
        // Nobody may be listening any more; the exit status tells all the same.
        drop(writeln!(std::io::stdout(), "{text}"));
    };
    if let Err(error) = tidy_up_on_interrupt() {
        say(&format!("the demo can not watch for Ctrl-C: {error}"));
    }
    match demo::run(LAB, &mut say) {
        Ok(rows) => {
            say(&demo::table(&rows));
            ExitCode::from(u8::from(rows.iter().any(|row| row.failure.is_some())))
        }
        Err(error) => {
            say(&format!("the demo stopped: {error:#}"));
            ExitCode::from(3)
        }
    }
}

/// Ctrl-C takes the lab down before the demo ends.
fn tidy_up_on_interrupt() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new().spawn(move || {
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            if let Err(error) = demo::clean(LAB) {
                eprintln!("{error:#}");
            }
            std::process::exit(130);
        }
    })?;
    Ok(())
}
