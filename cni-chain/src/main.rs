//! The plugin's process: variables and standard input in, one JSON document on standard output.

use std::{
    io::{self, Read, Write},
    process::{self, ExitCode},
};

use vethwall_cni::{
    CniError, Outcome, code,
    input::{Environment, NEWEST},
    retired::is_retired,
    run,
};

fn main() -> ExitCode {
    let get = |name: &str| std::env::var(name).ok();
    let verb = get("CNI_COMMAND");
    let forgiving = matches!(verb.as_deref(), Some("DEL" | "GC"));
    // Not catch_unwind: the shipped build aborts on panic, and a runtime that reads nothing says "no error message".
    std::panic::set_hook(Box::new(move |info| {
        if forgiving {
            process::exit(0);
        }
        let error = CniError::new(code::INTERNAL, "vethwall: the plugin has a bug").because(info);
        print(error.to_json(NEWEST).as_bytes());
        process::exit(1);
    }));

    let mut stdin = Vec::new();
    // A configuration that can not be read is one that can not be parsed: the commands say so, DEL does not mind.
    let _unread = io::stdin().lock().read_to_end(&mut stdin);
    let environment = Environment {
        retired: std::env::current_exe().is_ok_and(|plugin| is_retired(&plugin)),
        ..Environment::read(get)
    };
    let Outcome { output, success } = run(verb.as_deref(), &environment, &stdin);
    print(&output);
    if success {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn print(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    if stdout.write_all(bytes).and_then(|()| stdout.flush()).is_err() {
        process::exit(1);
    }
}
