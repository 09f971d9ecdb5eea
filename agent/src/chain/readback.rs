//! Whether the runtime has read what stands in its directory, and the pace at which it is asked and poked.
//!
//! Each poke makes the runtime read its directory anew, and a containerd whose directory changes holds up pods that start
//! (go-cni takes a lock for both). So it is poked when something was written, some more times if that did not help, and
//! then once a minute.

use std::time::{Duration, Instant};

use super::plan::Abilities;
use crate::{
    api::chain::Runtime as Told,
    cri::{
        Runtime,
        view::{Cni, Kind, View},
    },
};

/// Between two questions while all is well and the directory does not change.
const PEACE: Duration = Duration::from_secs(30);
/// For how long a runtime may take to read its directory, or to come back, before that is a problem.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Between the first pokes, and how many they are.
const SOON: Duration = Duration::from_secs(1);
const POKES: u32 = 5;
/// Between the later ones.
const SELDOM: Duration = Duration::from_secs(60);

/// What the runtime says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// There is none to ask, or it does not tell.
    Nothing,
    /// It calls our plugin.
    Yes,
    /// It does not; since when, and what it has instead.
    No(Instant, Cni),
    /// It does not answer; since when, and why.
    Silence(Instant, String),
}

/// Asks, and remembers.
pub(super) struct Readback {
    runtime: Box<dyn Runtime>,
    view: Option<View>,
    error: Option<String>,
    asked: Option<Instant>,
    /// Since when the answer is not the one that is wanted.
    since: Option<Instant>,
    poked: Option<Instant>,
    pokes: u32,
}

impl Readback {
    pub(super) fn new(runtime: Box<dyn Runtime>) -> Self {
        Self {
            runtime,
            view: None,
            error: None,
            asked: None,
            since: None,
            poked: None,
            pokes: 0,
        }
    }

    /// Asks where the last answer is old, was none, or may be another now: `wanted` is whether our plugin ought to be called,
    /// `changed` whether the directory did.
    pub(super) fn ask(&mut self, now: Instant, wanted: bool, changed: bool) -> Word {
        let peace = !changed
            && self.error.is_none()
            && self.names_us().is_none_or(|names| names == wanted)
            && self.asked.is_some_and(|asked| now.duration_since(asked) < PEACE);
        if !peace {
            self.asked = Some(now);
            match self.runtime.view() {
                None => (self.view, self.error) = (None, None),
                Some(Ok(view)) => (self.view, self.error) = (Some(view), None),
                Some(Err(error)) => self.error = Some(error.to_string()),
            }
        }
        let told = self.view.as_ref().and_then(|view| view.cni.clone());
        let well = self.error.is_none() && told.as_ref().is_none_or(|cni| cni.names_us() == wanted);
        if well {
            (self.since, self.poked, self.pokes) = (None, None, 0);
        }
        let since = if well { now } else { *self.since.get_or_insert(now) };
        match (&self.error, told) {
            (Some(error), _) => Word::Silence(since, error.clone()),
            (None, None) => Word::Nothing,
            (None, Some(cni)) if cni.names_us() => Word::Yes,
            (None, Some(cni)) => Word::No(since, cni),
        }
    }

    /// The directory was written, and the runtime poked: from now on it is waited for.
    pub(super) fn written(&mut self) {
        (self.since, self.poked, self.pokes) = (None, None, 0);
    }

    /// Whether it is time to make the runtime read its directory; counts it as done.
    pub(super) fn poke(&mut self, now: Instant) -> bool {
        let pause = if self.pokes < POKES { SOON } else { SELDOM };
        // What was written came with a poke of its own.
        let last = self.poked.or(self.since);
        let due = last.is_none_or(|last| now.duration_since(last) >= pause);
        if due {
            self.poked = Some(now);
            self.pokes += 1;
        }
        due
    }

    fn names_us(&self) -> Option<bool> {
        Some(self.view.as_ref()?.cni.as_ref()?.names_us())
    }

    /// What it can do, as far as it told.
    pub(super) fn abilities(&self) -> Abilities {
        let Some(view) = &self.view else {
            return Abilities::default();
        };
        Abilities {
            dropins: Some(view.reads_dropins()),
            max_conf_num: view.cni.as_ref().map(|cni| cni.max_conf_num),
            skips_lists: view.kind == Kind::Crio,
        }
    }

    /// Handlers whose pods come by another chain.
    pub(super) fn handlers(&self) -> &[String] {
        self.view.as_ref().map_or(&[], |view| &view.handlers)
    }

    /// For `status`.
    pub(super) fn told(&self) -> Option<Told> {
        let view = self.view.as_ref();
        if view.is_none() && self.error.is_none() {
            return None;
        }
        Some(Told {
            name: view.map(|view| view.name.clone()).unwrap_or_default(),
            version: view.map(|view| view.version.clone()).unwrap_or_default(),
            socket: view.map(|view| view.socket.clone()).unwrap_or_default(),
            names_us: self.names_us(),
            plugins: view
                .and_then(|view| view.cni.as_ref())
                .map(|cni| cni.plugins.clone())
                .unwrap_or_default(),
            error: self.error.clone(),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex};

    use vethwall_cni::conflist::PLUGIN;

    use super::*;
    use crate::cri::client::Error;

    /// A runtime that says what it is told to say.
    #[derive(Clone, Default)]
    pub(in crate::chain) struct Double(pub(in crate::chain) Arc<Mutex<Option<Result<View, String>>>>);

    impl Double {
        pub(in crate::chain) fn says(&self, answer: Option<Result<View, String>>) {
            *self.0.lock().unwrap() = answer;
        }
    }

    impl Runtime for Double {
        fn view(&mut self) -> Option<Result<View, Error>> {
            let answer = self.0.lock().unwrap().clone()?;
            Some(answer.map_err(|why| Error {
                socket: "/run/x.sock".into(),
                question: "Status",
                why,
            }))
        }
    }

    pub(in crate::chain) fn view(version: &str, plugins: &[&str]) -> View {
        View {
            kind: Kind::Containerd,
            name: "containerd".into(),
            version: version.into(),
            socket: "/run/x.sock".into(),
            cni: Some(Cni {
                conf_dir: "/etc/cni/net.d".into(),
                bin_dirs: Vec::new(),
                max_conf_num: 1,
                plugins: plugins.iter().map(|p| (*p).to_owned()).collect(),
            }),
            handlers: Vec::new(),
        }
    }

    #[test]
    fn it_is_asked_when_the_answer_may_have_changed() {
        let runtime = Double::default();
        let mut readback = Readback::new(Box::new(runtime.clone()));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(readback.ask(at(0), true, true), Word::Nothing);
        assert_eq!(readback.told(), None);
        runtime.says(Some(Ok(view("1.7.0", &["flannel"]))));
        let Word::No(since, _) = readback.ask(at(1), true, true) else {
            panic!()
        };
        assert_eq!(since, at(1));
        assert_eq!(readback.told().unwrap().names_us, Some(false));
        // While it says no it is asked again, and what it says is believed.
        runtime.says(Some(Ok(view("1.7.0", &["flannel", PLUGIN]))));
        assert_eq!(readback.ask(at(2), true, false), Word::Yes);
        runtime.says(Some(Err("gone".into())));
        assert_eq!(readback.ask(at(3), true, false), Word::Yes, "nothing changed");
        let Word::Silence(_, why) = readback.ask(at(3), true, true) else {
            panic!()
        };
        assert!(why.contains("gone"));
        assert_eq!(readback.told().unwrap().names_us, Some(true), "from before");
        runtime.says(Some(Ok(view("1.7.0", &["flannel", PLUGIN]))));
        assert_eq!(readback.ask(at(4), true, false), Word::Yes);
        runtime.says(Some(Ok(view("1.7.0", &[]))));
        assert_eq!(readback.ask(at(4 + 29), true, false), Word::Yes);
        assert!(
            matches!(readback.ask(at(4 + 30), true, false), Word::No(..)),
            "now and then it is asked anyway"
        );
    }

    #[test]
    fn pokes_become_rare() {
        let runtime = Double::default();
        runtime.says(Some(Ok(view("1.7.0", &[]))));
        let mut readback = Readback::new(Box::new(runtime));
        let start = Instant::now();
        let mut poked = Vec::new();
        for second in 0..130 {
            let now = start + Duration::from_secs(second);
            readback.ask(now, true, false);
            if readback.poke(now) {
                poked.push(second);
            }
        }
        assert_eq!(poked, [1, 2, 3, 4, 5, 65, 125]);
    }
}
