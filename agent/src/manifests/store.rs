//! Keeps the last good version of every object (SEMANTICS 18).
//!
//! ```text
//! document     seen good before?   result
//! good         -                   the object
//! broken       yes                 the last good version
//! broken       no, a policy        isolates what it selects, both ways
//! broken       no, another kind    as far as it can be read without its unknown fields, else nothing
//! unreadable   file had objects    those of them that stand nowhere else
//! unreadable   no, at the start    nobody knows what is missing: the agent must not become ready
//! unreadable   no, later           nothing: the file is new, and so is whatever it may hold
//! ```
//! An object that stands in two files counts once, as the first file by name has it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Broken, File, Isolation, Loaded, Manifest, ObjectName, Problem};

/// An object and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Sourced {
    /// The file.
    pub file: PathBuf,
    /// The object's first line.
    pub line: usize,
    /// The object.
    pub object: Arc<Manifest>,
}

/// What is in force.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Every object once, sorted by name.
    pub objects: Vec<Sourced>,
    /// Policies that were never understood.
    pub isolations: Vec<Isolation>,
    /// What is wrong, sorted by place.
    pub problems: Vec<Problem>,
    /// Files of which it was never known what they hold.
    pub unreadable: Vec<PathBuf>,
}

/// Remembers the last good version of every object.
#[derive(Clone, Debug, Default)]
pub struct Store {
    good: BTreeMap<PathBuf, BTreeMap<ObjectName, Sourced>>,
    /// Everything could be read once. From then on an unreadable file is a new one and hides nothing.
    complete: bool,
}

impl Store {
    /// What is in force now that the directory holds this.
    pub fn update(&mut self, loaded: &Loaded) -> View {
        let mut view = View::default();
        let mut fresh: BTreeMap<ObjectName, Sourced> = BTreeMap::new();
        for file in &loaded.files {
            view.problems.extend(file.errors.iter().cloned());
            for document in &file.documents {
                let line = *document.lines.start();
                let name = document.object.object_name();
                if let Some(first) = fresh.get(&name).filter(|_| !name.name.is_empty()) {
                    view.problems.push(twice(&name, first, &file.path, line));
                    continue;
                }
                let object = Arc::clone(&document.object);
                fresh.insert(
                    name,
                    Sourced {
                        file: file.path.clone(),
                        line,
                        object,
                    },
                );
            }
        }
        let mut all = fresh.clone();
        let mut isolations = Vec::new();
        for file in &loaded.files {
            for broken in &file.broken {
                self.stand_in(file, broken, &mut all, &mut isolations, &mut view.unreadable);
            }
        }
        // A good version elsewhere, whichever file came first.
        isolations.retain(|(name, _)| name.as_ref().is_none_or(|name| !all.contains_key(name)));
        view.isolations = isolations.into_iter().map(|(_, isolation)| isolation).collect();
        self.good = BTreeMap::new();
        for (name, sourced) in &all {
            self.good
                .entry(sourced.file.clone())
                .or_default()
                .insert(name.clone(), sourced.clone());
        }
        view.objects = all.into_values().collect();
        view.problems.sort();
        view.unreadable.dedup();
        self.complete |= view.unreadable.is_empty();
        if self.complete {
            // They are told as problems.
            view.unreadable.clear();
        }
        view
    }

    /// What stands in for a broken document.
    fn stand_in(
        &self,
        file: &File,
        broken: &Broken,
        all: &mut BTreeMap<ObjectName, Sourced>,
        isolations: &mut Vec<(Option<ObjectName>, Isolation)>,
        unreadable: &mut Vec<PathBuf>,
    ) {
        let before = self.good.get(&file.path);
        if let Some(name) = &broken.name {
            // It may have moved here from another file and been broken on the way.
            let last = self.good.values().find_map(|objects| objects.get(name));
            let lenient = broken.lenient.as_ref().filter(|_| broken.isolates.is_none());
            if all.contains_key(name) {
                return;
            }
            if let Some(last) = last {
                all.insert(
                    name.clone(),
                    Sourced {
                        file: file.path.clone(),
                        ..last.clone()
                    },
                );
                return;
            }
            if let Some(object) = lenient {
                let object = Arc::clone(object);
                all.insert(
                    name.clone(),
                    Sourced {
                        file: file.path.clone(),
                        line: broken.line,
                        object,
                    },
                );
                return;
            }
        } else {
            for (name, last) in before.into_iter().flatten() {
                all.entry(name.clone()).or_insert_with(|| last.clone());
            }
        }
        if let Some(isolation) = &broken.isolates {
            isolations.push((broken.name.clone(), isolation.clone()));
        }
        if broken.unreadable && before.is_none_or(BTreeMap::is_empty) {
            unreadable.push(file.path.clone());
        }
    }
}

fn twice(name: &ObjectName, first: &Sourced, file: &Path, line: usize) -> Problem {
    let namespace = if name.namespace.is_empty() {
        String::new()
    } else {
        format!("{}/", name.namespace)
    };
    Problem {
        file: file.to_owned(),
        line,
        column: 1,
        message: format!(
            "{} {namespace}{} stands already in {}:{}; that one counts",
            name.kind,
            name.name,
            first.file.display(),
            first.line
        ),
        excerpt: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::load_texts;

    fn update(store: &mut Store, files: &[(&str, &str)]) -> View {
        let texts = files
            .iter()
            .map(|(path, text)| (PathBuf::from(path), text.as_bytes().to_vec()))
            .collect();
        store.update(&load_texts(&texts))
    }

    fn names(view: &View) -> Vec<String> {
        view.objects
            .iter()
            .map(|sourced| sourced.object.object_name().name)
            .collect()
    }

    fn policy(name: &str, spec: &str) -> String {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"
        )
    }

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: pod}\n";

    // Covers: SEMANTICS 18
    #[test]
    fn a_broken_object_keeps_its_last_good_version_and_its_neighbours_move_on() {
        let mut store = Store::default();
        let good = policy("a", "{podSelector: {matchLabels: {v: one}}}") + &policy("b", "{}");
        let before = update(&mut store, &[("f.yaml", &good)]);
        let broken = policy("a", "{podSelectr: {}}") + &policy("c", "{}");
        let after = update(&mut store, &[("f.yaml", &broken)]);
        assert_eq!(names(&after), ["a", "c"], "b was deleted");
        assert_eq!(after.objects[0].object, before.objects[0].object);
        assert_eq!((after.isolations.len(), after.problems.len()), (0, 1));
        // And again, and good again.
        assert_eq!(update(&mut store, &[("f.yaml", &broken)]), after);
        let repaired = update(&mut store, &[("f.yaml", &policy("a", "{}"))]);
        assert_eq!(names(&repaired), ["a"]);
        assert_ne!(repaired.objects[0].object, before.objects[0].object);
    }

    // Covers: SEMANTICS 18
    #[test]
    fn a_cluster_policy_keeps_its_last_good_version_and_closes_its_subject_without_one() {
        let text = |spec: &str| {
            format!(
                "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: a}}\nspec: {spec}\n"
            )
        };
        let good = text("{tier: Admin, priority: 1, subject: {namespaces: {}}}");
        let mut store = Store::default();
        let before = update(&mut store, &[("f.yaml", &good)]);
        for broken in [
            text("{tier: Admin, priority: 1001, subject: {namespaces: {}}}"),
            text("{tier: Admin, priority: 1, subject: {namespaces: {}}, ingresss: []}"),
            text("5"),
            text("["),
        ] {
            let after = update(&mut store, &[("f.yaml", &broken)]);
            assert_eq!(after.objects[0].object, before.objects[0].object, "{broken}");
            assert_eq!((after.isolations.len(), after.problems.len()), (0, 1), "{broken}");
            let fresh = update(&mut Store::default(), &[("f.yaml", &broken)]);
            assert_eq!((fresh.objects.len(), fresh.isolations.len()), (0, 1), "{broken}");
            assert_eq!(fresh.isolations[0].name, "a");
        }
        assert_eq!(update(&mut store, &[]), View::default(), "deleted");
    }

    #[test]
    fn a_syntax_error_keeps_everything_the_file_held() {
        let mut store = Store::default();
        let good = policy("a", "{}") + &policy("b", "{}");
        update(&mut store, &[("f.yaml", &good)]);
        let view = update(&mut store, &[("f.yaml", "{")]);
        assert_eq!(names(&view), ["a", "b"]);
        assert_eq!(view.unreadable, Vec::<PathBuf>::new());
        let view = update(&mut store, &[]);
        assert_eq!(
            names(&view),
            Vec::<String>::new(),
            "a file that goes takes its objects with it"
        );
    }

    #[test]
    fn a_policy_that_was_never_good_isolates() {
        let view = update(
            &mut Store::default(),
            &[("f.yaml", &policy("a", "{ingresss: []}"))],
        );
        assert_eq!(names(&view), Vec::<String>::new());
        assert_eq!(
            (view.isolations.len(), view.isolations[0].name.as_str()),
            (1, "a")
        );
    }

    #[test]
    fn another_kind_counts_without_its_unknown_fields() {
        let pod = POD.replace("pod}", "pod, labells: {}}");
        let view = update(&mut Store::default(), &[("f.yaml", &pod)]);
        assert_eq!((names(&view), view.problems.len()), (vec!["pod".to_owned()], 1));
        let mut store = Store::default();
        let before = update(
            &mut store,
            &[("f.yaml", &POD.replace("pod}", "pod, labels: {a: b}}"))],
        );
        let after = update(&mut store, &[("f.yaml", &pod)]);
        assert_eq!(after.objects[0].object, before.objects[0].object);
    }

    #[test]
    fn what_was_never_read_is_told() {
        let view = update(&mut Store::default(), &[("f.yaml", "{"), ("g.yaml", POD)]);
        assert_eq!(
            (names(&view), view.unreadable),
            (vec!["pod".to_owned()], vec![PathBuf::from("f.yaml")])
        );
        // A new file that can not be read hides nothing that was in force.
        let mut store = Store::default();
        update(&mut store, &[("g.yaml", POD)]);
        let view = update(&mut store, &[("f.yaml", "{"), ("g.yaml", POD)]);
        assert_eq!((view.unreadable.len(), view.problems.len()), (0, 1));
    }

    #[test]
    fn an_object_in_two_files_counts_once_and_is_told() {
        let (one, two) = (policy("a", "{}"), policy("a", "{policyTypes: [Egress]}"));
        let files = [("b.yaml", two.as_str()), ("a.yaml", one.as_str())];
        let view = update(&mut Store::default(), &files);
        assert_eq!(
            (names(&view).len(), view.objects[0].file.clone()),
            (1, PathBuf::from("a.yaml"))
        );
        assert_eq!(view.problems.len(), 1);
        assert_eq!(
            view.problems[0].message,
            "NetworkPolicy default/a stands already in a.yaml:1; that one counts"
        );
    }

    #[test]
    fn a_good_version_in_another_file_beats_the_memory_of_this_one() {
        let mut store = Store::default();
        update(&mut store, &[("a.yaml", &policy("x", "{}"))]);
        let moved = policy("x", "{policyTypes: [Egress]}");
        let view = update(&mut store, &[("a.yaml", &policy("x", "5")), ("z.yaml", &moved)]);
        assert_eq!(
            (names(&view).len(), view.objects[0].file.clone()),
            (1, PathBuf::from("z.yaml"))
        );
        assert_eq!(view.isolations.len(), 0);
    }
}
