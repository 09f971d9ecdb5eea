//! Replays the fuzz target's corpus and mutations of it, so that every run of the tests tries what it found.

use std::{env, fs, path::Path};

use crate::{k8s, manifests};

#[path = "../../../fuzz/manifests.rs"]
mod body;

/// Mutations of each file; `VETHWALL_CASES` asks for more.
const MUTATIONS: usize = 60;

/// What manifests are made of, and what breaks them.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "-",
    "\n",
    "---\n",
    "  ",
    "\t",
    "&a ",
    "*a",
    "!!x ",
    "\"",
    "'",
    "|\n",
    "é",
    "#",
    "\u{0}",
    "\u{c}",
    "? ",
    "<<: *a",
    "null",
    "~",
    ".nan",
    "-1",
    "0",
    "65536",
    "99999999999999999999",
    "1e9",
    "true",
    "''",
    "{}",
    "[]",
    "[null]",
    "::/0",
    "0/0",
    "::ffff:1.2.3.4/97",
    "kind: ",
    "spec: ",
    "metadata: ",
    "name: ",
    "ClusterNetworkPolicy",
    "NetworkPolicy",
    "List",
    "items: ",
    "ingress: ",
    "egress: ",
    "from: ",
    "to: ",
    "ports: ",
    "protocols: ",
    "podSelector: ",
    "namespaceSelector: ",
    "matchExpressions: ",
    "operator: NotIn",
    "values: ",
    "action: Pass",
    "tier: Baseline",
    "priority: 1000",
    "subject: ",
    "networks: ",
    "nodes: ",
    "domainNames: ",
    "destinationNamedPort: ",
    "endPort: ",
    "vethwall.io/mode: audit",
];

fn corpus() -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/manifests");
    let mut files: Vec<_> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

/// A fixed sequence, so that a failure repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit.max(1)
    }

    /// Changes a text in one place.
    fn mutate(&mut self, text: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(text.len() + 1);
        let end = at + self.below((text.len() - at).min(40) + 1);
        match self.below(6) {
            0 => text.truncate(at),
            1 => drop(text.drain(at..end)),
            2 => {
                let copy = text[at..end].to_vec();
                text.splice(at..at, copy);
            }
            3 => {
                let piece = PIECES[self.below(PIECES.len())];
                text.splice(at..end, piece.bytes());
            }
            4 => {
                let piece = PIECES[self.below(PIECES.len())];
                text.splice(at..at, piece.bytes());
            }
            _ => {
                let from = self.below(other.len() + 1);
                let to = from + self.below((other.len() - from).min(200) + 1);
                text.splice(at..at, other[from..to].iter().copied());
            }
        }
    }
}

#[test]
fn the_corpus_and_what_is_near_it_can_be_read() {
    let corpus = corpus();
    assert!(corpus.len() > 10, "it is kept in the repository");
    let asked = env::var("VETHWALL_CASES").ok();
    let mutations = asked.map_or(MUTATIONS, |text| {
        text.parse().expect("VETHWALL_CASES is a number")
    });
    let mut random = Random(1);
    for (path, text) in &corpus {
        let run = |text: &[u8]| {
            std::panic::catch_unwind(|| body::run(text))
                .unwrap_or_else(|_| panic!("{path}: {:?}", String::from_utf8_lossy(text)));
        };
        run(text);
        for _ in 0..mutations {
            let mut text = text.clone();
            for _ in 0..=random.below(3) {
                let other = random.below(corpus.len());
                random.mutate(&mut text, &corpus[other].1);
            }
            run(&text);
        }
    }
}
