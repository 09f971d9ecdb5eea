//! What a running agent takes over from its file: the mode and what is logged.
//!
//! ```text
//! file ─ every 2 s ─► Config ─► differs from the one that runs?
//!                       │         mode, log ─► in force at once
//!                       │         the rest  ─► told: it needs a restart
//!                       └─ wrong ─► told; what runs goes on
//! ```

use std::{path::PathBuf, sync::mpsc::Sender, thread, time::Duration};

use serde_json::Value;
use tracing::{info, warn};
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::{Config, Given, LogFilter};
use crate::{
    api::{Mode, status::Problem},
    node::{Configured, Input},
};

/// Between two looks. A ConfigMap takes up to a minute to come to a node; two seconds are nothing.
const LOOK: Duration = Duration::from_secs(2);

/// Changes what is logged.
pub type LogHandle = reload::Handle<EnvFilter, Registry>;

/// A file, and what runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// The file.
    pub file: PathBuf,
    /// What the file does not change.
    pub given: Given,
    /// What the agent was started with.
    pub running: Config,
}

impl Followed {
    /// What the file says now, given what is in force. The second is what is to be logged.
    fn look(&self, mode: Mode, log: &LogFilter) -> (Configured, LogFilter) {
        let config = match self.given.over(Some(&self.file)) {
            Ok(config) => config,
            Err(error) => {
                let problem = Problem::new(
                    "CFG001",
                    format!("the configuration can not be used, what was before stays in force: {error}"),
                    Some("mend it; the agent looks again by itself"),
                );
                let problems = vec![problem];
                return (Configured { mode, problems }, log.clone());
            }
        };
        let changed = different(&self.running, &config);
        let restart = (!changed.is_empty()).then(|| {
            Problem::new(
                "CFG002",
                format!(
                    "changes of {} wait until the agent is started again",
                    changed.join(", ")
                ),
                Some("kubectl rollout restart; nothing is interrupted by it"),
            )
        });
        let told = Configured {
            mode: config.mode,
            problems: restart.into_iter().collect(),
        };
        (told, config.log)
    }
}

/// The keys in which two differ, but for those that need no restart.
fn different(running: &Config, now: &Config) -> Vec<String> {
    let of = |config: &Config| {
        let config = Config {
            mode: Mode::default(),
            log: LogFilter::default(),
            ..config.clone()
        };
        match serde_json::to_value(config) {
            Ok(Value::Object(keys)) => keys,
            Ok(_) | Err(_) => serde_json::Map::new(),
        }
    };
    let (running, now) = (of(running), of(now));
    let keys = running
        .keys()
        .chain(now.keys().filter(|key| !running.contains_key(*key)));
    keys.filter(|key| running.get(*key) != now.get(*key))
        .cloned()
        .collect()
}

/// Starts the thread that looks at the file.
pub fn spawn(followed: Followed, handle: LogHandle, node: Sender<Input>) -> std::io::Result<()> {
    let run = move || {
        let mut told = Configured {
            mode: followed.running.mode,
            problems: Vec::new(),
        };
        let mut log = followed.running.log.clone();
        loop {
            thread::sleep(LOOK);
            let (now, wanted) = followed.look(told.mode, &log);
            if wanted != log {
                match handle.reload(wanted.filter()) {
                    Ok(()) => info!("what is logged follows the configuration"),
                    Err(error) => warn!("what is logged can not be changed: {error}"),
                }
                log = wanted;
            }
            if now == told {
                continue;
            }
            if now.mode != told.mode {
                info!(mode = now.mode.name(), "the mode follows the configuration");
            }
            now.problems
                .iter()
                .for_each(|problem| warn!("{}", problem.message));
            told = now;
            if node.send(Input::Config(told.clone())).is_err() {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("config".to_owned())
        .spawn(run)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn mode_and_log_are_taken_over_and_the_rest_waits() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.yaml");
        fs::write(&file, "mode: enforce\nmaxPods: 50\n").unwrap();
        let running = Given::default().over(Some(&file)).unwrap();
        let (mode, log) = (running.mode, running.log.clone());
        let followed = Followed {
            file: file.clone(),
            given: Given::default(),
            running,
        };
        let unchanged = Configured {
            mode,
            problems: Vec::new(),
        };
        assert_eq!(followed.look(mode, &log), (unchanged.clone(), log.clone()));

        fs::write(&file, "mode: audit\nlog: debug\nmaxPods: 50\n").unwrap();
        let debug = LogFilter::try_from("debug".to_owned()).unwrap();
        let audit = Configured {
            mode: Mode::Audit,
            ..unchanged.clone()
        };
        assert_eq!(followed.look(mode, &log), (audit, debug.clone()));

        fs::write(&file, "mode: audit\nbridge: br0\nnode: x\n").unwrap();
        let (told, _) = followed.look(mode, &log);
        assert_eq!(
            (told.mode, told.problems[0].code.as_str()),
            (Mode::Audit, "CFG002")
        );
        assert!(
            told.problems[0].message.contains("maxPods, bridge, node"),
            "{told:?}"
        );

        // What runs stays, and not what the file said at the start.
        for wrong in ["mode: audti\n", "mod: audit\n", "{", "- a\n"] {
            fs::write(&file, wrong).unwrap();
            let (told, logged) = followed.look(Mode::Audit, &debug);
            assert_eq!((told.mode, &logged), (Mode::Audit, &debug), "{wrong}");
            assert_eq!(told.problems[0].code, "CFG001", "{wrong}");
        }
        fs::remove_file(&file).unwrap();
        assert_eq!(followed.look(mode, &log).0.problems[0].code, "CFG001");
    }
}
