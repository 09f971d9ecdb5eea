//! `make demo`: what vethwall does, shown with real traffic.

use std::{io::Write as _, process::ExitCode};

use vethwall_tests::demo;

fn main() -> ExitCode {
    let mut say = |text: &str| {
        // Nobody may be listening any more; the exit status tells all the same.
        drop(writeln!(std::io::stdout(), "{text}"));
    };
    match demo::run("demo", &mut say) {
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
