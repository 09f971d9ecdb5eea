//! The plugin's process: variables and standard input in, one JSON document on standard output, in bounded time.

use std::{
    env,
    io::{self, Read, Write},
    process::{self, ExitCode},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use vethwall_cni::{
    CniError, Outcome, code,
    input::{Environment, MAX_STDIN, NEWEST},
    retired::is_retired,
    run,
};

/// A call takes no longer, whatever it waits for: a runtime that does not end the configuration, a kernel that is busy.
const TIME: Duration = Duration::from_secs(8);
/// The same for those that never fail. They may take a second, with what it takes to start the process.
const FORGIVING_TIME: Duration = Duration::from_millis(600);

/// The configuration was read.
static READ: AtomicBool = AtomicBool::new(false);
/// Somebody speaks: there is one document.
static SPOKEN: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    // No verb has a character that stands for what is no text.
    let verb = env::var_os("CNI_COMMAND").map(|verb| verb.to_string_lossy().into_owned());
    let forgiving = matches!(verb.as_deref(), Some("DEL" | "GC"));
    // Not catch_unwind: the shipped build aborts on panic, and a runtime that reads nothing says "no error message".
    std::panic::set_hook(Box::new(move |info| {
        let error = CniError::new(code::INTERNAL, "vethwall: the plugin has a bug").because(info);
        fail(forgiving, &error);
    }));
    if let Err(error) = thread::Builder::new().spawn(move || end_in_time(forgiving)) {
        let msg = "vethwall: cannot start a thread to keep the time; raise the limit of processes";
        fail(forgiving, &CniError::new(code::IO, msg).because(error));
    }

    let mut stdin = Vec::new();
    // A configuration that can not be read is one that can not be parsed: the commands say so, DEL does not mind.
    let most = MAX_STDIN as u64 + 1;
    let _unread = io::stdin().lock().take(most).read_to_end(&mut stdin);
    READ.store(true, Ordering::Relaxed);
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

/// Ends the process when its time is over.
fn end_in_time(forgiving: bool) -> ! {
    let time = if forgiving { FORGIVING_TIME } else { TIME };
    thread::sleep(time);
    let error = if READ.load(Ordering::Relaxed) {
        let msg = "vethwall: the node is too slow; the pod's start is tried again";
        CniError::new(code::TRY_LATER, msg).because(format!("not done within {time:?}"))
    } else {
        let msg = "vethwall: cannot read the network configuration; the runtime must close the plugin's standard input";
        CniError::new(code::IO, msg).because(format!("it did not end within {time:?}"))
    };
    fail(forgiving, &error)
}

/// Ends the process with an error, or without one where there must be none.
fn fail(forgiving: bool, error: &CniError) -> ! {
    if forgiving {
        process::exit(0);
    }
    print(error.to_json(NEWEST).as_bytes());
    process::exit(1)
}

/// Only one document is printed, and whoever comes second ends the process if the first does not: nobody reads what it says.
fn print(bytes: &[u8]) {
    if SPOKEN.swap(true, Ordering::AcqRel) {
        thread::sleep(Duration::from_millis(500));
        process::exit(1);
    }
    let mut stdout = io::stdout().lock();
    if stdout.write_all(bytes).and_then(|()| stdout.flush()).is_err() {
        process::exit(1);
    }
}
