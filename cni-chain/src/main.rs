//! The plugin's process: variables and standard input in, one JSON document on standard output.

use std::{
    env,
    io::{self, Read, Write},
    process::{self, ExitCode},
};

use vethwall_cni::{
    CniError, Outcome, code,
    input::{Environment, MAX_STDIN, NEWEST},
    retired::is_retired,
    run,
};

fn main() -> ExitCode {
    // No verb has a character that stands for what is no text.
    let verb = env::var_os("CNI_COMMAND").map(|verb| verb.to_string_lossy().into_owned());
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
    let most = MAX_STDIN as u64 + 1;
    let _unread = io::stdin().lock().take(most).read_to_end(&mut stdin);
    let environment = Environment {
        retired: env::current_exe().is_ok_and(|plugin| is_retired(&plugin)),
        ..Environment::read(|name| env::var_os(name))
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
