//! pid 1 of a lab: everything in the lab is below it and ends with it.
//!
//! ```text
//! up ─ launch ─ unshare(pid, mnt, net, ...) ─► supervisor ─┬ holder of node 1, of node 2, of the outside host
//!  └─ pipe: "C" commits, end of file aborts ──────┘        ├ agents
//!                                                          └ the pods' servers
//! ```
//!
//! Invariants: nothing of a lab is outside its pid namespace but the directory of its state; a supervisor that was not
//! committed ends with the process that started it.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::{Pid, setsid},
};
use serde::{Deserialize, Serialize};

use super::enter::{Place, private};

/// What the supervisor is asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub(super) enum Request {
    /// Start a program that stays.
    Start(Start),
    /// End one and wait until it is gone.
    Stop {
        /// The name it was started with.
        key: String,
        /// KILL instead of TERM.
        kill: bool,
    },
    /// Which run?
    List,
}

/// A program that stays.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Start {
    /// Its name.
    pub key: String,
    /// The holder whose namespaces it runs in; 0 is the supervisor itself.
    pub holder: u32,
    /// A network namespace below the holder's /run/netns.
    pub netns: Option<String>,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Added to the environment.
    pub env: BTreeMap<String, String>,
    /// Where its standard error goes.
    pub log: PathBuf,
    /// Wait until it has written a line: `ready`, or why not.
    pub wait: bool,
}

/// What the supervisor answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Answer {
    /// What went wrong.
    pub error: Option<String>,
    /// pid inside the lab.
    pub pid: u32,
    /// What runs, and pids.
    pub running: BTreeMap<String, u32>,
}

type Daemons = Arc<Mutex<BTreeMap<String, u32>>>;

/// Asks a lab's supervisor.
pub(super) fn ask(directory: &Path, request: &Request) -> Result<Answer> {
    let path = directory.join("control.sock");
    let mut stream = UnixStream::connect(&path).with_context(|| format!("connect to {}", path.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(format!("{}\n", serde_json::to_string(request)?).as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .context("the lab's supervisor did not answer")?;
    let answer: Answer = serde_json::from_str(&line).context("the lab's supervisor ended")?;
    match answer.error {
        Some(error) => bail!("{error}"),
        None => Ok(answer),
    }
}

/// `vethwall-lab supervise`, first half: makes the namespaces and starts pid 1, whose pid it prints.
pub(super) fn launch(directory: &Path) -> Result<()> {
    unshare(
        CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC,
    )
    .context("make namespaces: root is needed")?;
    let log = File::create(directory.join("log/supervisor.log"))?;
    let child = Command::new(std::env::current_exe()?)
        .args(["internal", "supervise"])
        .arg(directory)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    println!("{}", child.id());
    Ok(())
}

/// `vethwall-lab supervise`, second half: pid 1.
pub(super) fn supervise(directory: &Path) -> Result<()> {
    setsid().context("setsid")?;
    std::env::set_current_dir("/")?;
    private()?;
    let none = None::<&str>;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).context("mount /proc")?;
    let socket = UnixListener::bind(directory.join("control.sock")).context("bind control.sock")?;
    let daemons = Daemons::default();
    let reaped = daemons.clone();
    thread::spawn(move || reap(&reaped));
    let guarded = directory.to_owned();
    thread::spawn(move || {
        let mut byte = [0];
        if std::io::stdin().read(&mut byte).ok() != Some(1) || byte != *b"C" {
            // `up` is gone: leave nothing.
            for _ in 0..20 {
                // What still runs in here may write a last file.
                if fs::remove_dir_all(&guarded).is_ok() {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
            // Other labs keep it.
            let _others = guarded.parent().map(fs::remove_dir);
            std::process::exit(1);
        }
    });
    for stream in socket.incoming().flatten() {
        let daemons = daemons.clone();
        thread::spawn(move || {
            if let Err(error) = serve(stream, &daemons) {
                eprintln!("{error:#}");
            }
        });
    }
    Ok(())
}

fn reap(daemons: &Daemons) {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => {
                let pid = pid.as_raw().unsigned_abs();
                lock(daemons).retain(|_, running| *running != pid);
            }
            Ok(_) => {}
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn lock(daemons: &Daemons) -> std::sync::MutexGuard<'_, BTreeMap<String, u32>> {
    daemons.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(stream: UnixStream, daemons: &Daemons) -> Result<()> {
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let answer = serde_json::from_str(&line)
        .context("read the request")
        .and_then(|request| handle(request, daemons))
        .unwrap_or_else(|error| Answer {
            error: Some(format!("{error:#}")),
            ..Answer::default()
        });
    (&stream).write_all(format!("{}\n", serde_json::to_string(&answer)?).as_bytes())?;
    Ok(())
}

fn handle(request: Request, daemons: &Daemons) -> Result<Answer> {
    match request {
        Request::List => Ok(Answer {
            running: lock(daemons).clone(),
            ..Answer::default()
        }),
        Request::Stop { key, kill: hard } => {
            let Some(pid) = lock(daemons).get(&key).copied() else {
                return Ok(Answer::default());
            };
            let signal = if hard { Signal::SIGKILL } else { Signal::SIGTERM };
            let _gone = kill(Pid::from_raw(pid.cast_signed()), signal);
            let deadline = Instant::now() + Duration::from_secs(10);
            while lock(daemons).get(&key) == Some(&pid) {
                if Instant::now() > deadline {
                    bail!("{key} does not end");
                }
                thread::sleep(Duration::from_millis(5));
            }
            Ok(Answer {
                pid,
                ..Answer::default()
            })
        }
        Request::Start(start) => {
            if lock(daemons).contains_key(&start.key) {
                bail!("{} runs already", start.key);
            }
            run(&start, daemons)
        }
    }
}

fn run(start: &Start, daemons: &Daemons) -> Result<Answer> {
    let holder = if start.holder == 0 { 1 } else { start.holder };
    let place = Place {
        holder: PathBuf::from(format!("/proc/{holder}")),
        pid: false,
        netns: start.netns.clone(),
        resolver: None,
    };
    let (program, arguments) = start.argv.split_first().context("no program")?;
    let log = OpenOptions::new().create(true).append(true).open(&start.log)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(&start.env)
        .stdin(Stdio::null())
        .stderr(log.try_clone()?);
    command.stdout(if start.wait {
        Stdio::piped()
    } else {
        Stdio::from(log)
    });
    let mut child = {
        // The reaper must find the name there, however soon the program ends.
        let mut daemons = lock(daemons);
        let child = place.spawn(command)?;
        daemons.insert(start.key.clone(), child.id());
        child
    };
    let pid = child.id();
    if let Some(stdout) = child.stdout.take() {
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        match line.trim() {
            "ready" => {}
            "" => bail!("{} ended; {} says why", start.key, start.log.display()),
            reason => bail!("{reason}"),
        }
    }
    Ok(Answer {
        pid,
        ..Answer::default()
    })
}
