//! The thread that reads the manifests: a directory's content becomes objects whenever it changes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::mpsc::Sender,
    thread,
};

use anyhow::Context as _;
use tracing::{info, warn};
use vethwall_policy::model::PolicyRef;

use crate::{
    api::{PolicyName, status::ManifestProblem},
    k8s::convert::{Problem, convert},
    manifests::{self, Loader, Store, Texts, View},
    node::{Content, Input, Objects},
    watch::Watch,
};

/// Starts the thread. The directory must be there; what becomes of it later is watched.
pub fn spawn(directory: PathBuf, node: Sender<Input>) -> anyhow::Result<()> {
    manifests::read(&directory).with_context(|| {
        format!(
            "can not read the manifests in {}; name a directory with --manifests DIR",
            directory.display()
        )
    })?;
    let mut watch = Watch::new(&directory);
    let mut reader = Reader {
        directory,
        loader: Loader::default(),
        store: Store::default(),
        last: None,
    };
    let run = move || {
        loop {
            if let Some(objects) = reader.read()
                && node.send(Input::Objects(Box::new(objects))).is_err()
            {
                return;
            }
            watch.changed();
        }
    };
    thread::Builder::new().name("manifests".to_owned()).spawn(run)?;
    Ok(())
}

struct Reader {
    directory: PathBuf,
    loader: Loader,
    store: Store,
    /// What was read last; an error counts as content, so that it is told once.
    last: Option<Result<Texts, String>>,
}

impl Reader {
    /// The objects, if the directory changed.
    fn read(&mut self) -> Option<Objects> {
        let now = manifests::read(&self.directory).map_err(|error| error.to_string());
        if self.last.as_ref() == Some(&now) {
            return None;
        }
        self.last = Some(now.clone());
        match now {
            Ok(texts) => {
                info!(files = texts.len(), "manifests changed");
                Some(objects(&self.directory, &mut self.loader, &mut self.store, texts))
            }
            Err(error) => {
                warn!("the manifests can not be read, the last ones stay in force: {error}");
                None
            }
        }
    }
}

/// What the texts mean, with what is remembered of earlier ones.
fn objects(directory: &Path, loader: &mut Loader, store: &mut Store, texts: Texts) -> Objects {
    let digest = manifests::digest_of(&texts);
    let files = texts.len();
    let view = store.update(&loader.load(texts));
    let converted = convert(&view);
    let incomplete = incomplete(&view);
    let files_own = view.problems.iter().map(|problem| ManifestProblem {
        file: problem.file.display().to_string(),
        line: problem.line,
        column: problem.column,
        message: problem.message.clone(),
        code: None,
    });
    let mut told = Told {
        problems: files_own.collect(),
        ..Told::default()
    };
    converted
        .problems
        .into_iter()
        .for_each(|problem| told.tell(problem));
    Objects {
        content: Content::All(converted.objects),
        policy_problems: told.policy_problems,
        directory: directory.display().to_string(),
        digest,
        files,
        problems: told.problems,
        incomplete,
    }
}

/// What is wrong with objects: once in their order, once by policy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) problems: Vec<ManifestProblem>,
    pub(crate) policy_problems: BTreeMap<PolicyName, Vec<String>>,
}

impl Told {
    /// Adds what conversion found.
    pub(crate) fn tell(&mut self, problem: Problem) {
        let mut message = problem.message.clone();
        if let Some(PolicyRef { namespace, name }) = problem.policy {
            message = format!("policy {namespace}/{name}: {message}");
            let texts = self.policy_problems.entry(PolicyName { namespace, name });
            let text = format!("{}: {}", problem.code, problem.message);
            texts.or_default().push(text);
        }
        self.problems.push(ManifestProblem {
            file: problem
                .file
                .map(|file| file.display().to_string())
                .unwrap_or_default(),
            line: problem.line,
            column: 0,
            message,
            code: Some(problem.code.to_owned()),
        });
    }
}

fn incomplete(view: &View) -> Option<String> {
    let files: Vec<String> = view
        .unreadable
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    (!files.is_empty()).then(|| {
        format!(
            "{} could never be read, so it is not known which policies it holds",
            files.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str =
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a, namespace: b}\n";

    fn read(texts: &[(&str, &str)]) -> Objects {
        let texts = texts
            .iter()
            .map(|(path, text)| (PathBuf::from(path), text.as_bytes().to_vec()))
            .collect();
        objects(
            Path::new("/d"),
            &mut Loader::default(),
            &mut Store::default(),
            texts,
        )
    }

    #[test]
    fn a_file_that_was_never_readable_makes_the_objects_incomplete() {
        let good = format!("{POLICY}spec: {{podSelector: {{}}}}\n");
        assert_eq!(read(&[("a.yaml", &good)]).incomplete, None);
        let broken = read(&[("a.yaml", &good), ("b.yaml", "{")]);
        assert!(broken.incomplete.unwrap().contains("b.yaml"));
        assert_eq!(
            (broken.problems.len(), broken.problems[0].file.as_str()),
            (1, "b.yaml")
        );
    }

    #[test]
    fn a_problem_of_a_policy_is_told_with_its_file_and_with_its_policy() {
        let spec = "spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}\n";
        let objects = read(&[("a.yaml", &format!("{POLICY}{spec}"))]);
        let Content::All(all) = objects.content else {
            panic!("a directory is read as a whole")
        };
        assert_eq!(all.len(), 1);
        let name = PolicyName {
            namespace: "b".into(),
            name: "a".into(),
        };
        assert!(
            objects.policy_problems[&name][0].contains("10.0.0.0/33"),
            "{:?}",
            objects.policy_problems
        );
        assert_eq!(objects.problems[0].file, "a.yaml");
    }
}
