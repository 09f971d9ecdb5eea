//! A directory of manifests, answered from without an agent.

use std::{
    io,
    path::{Path, PathBuf},
};

use vethwall_policy::world::World;

use super::{
    Failure, Streams,
    text::{escape, paint, warn},
};
use crate::{k8s, manifests};

/// What the files mean together.
pub(super) struct Manifests {
    pub(super) world: World,
    /// The directory, for messages.
    pub(super) shown: String,
    /// A file of which nothing can be read.
    unreadable: Option<PathBuf>,
}

impl Manifests {
    /// Reads them; what is wrong with them is told.
    pub(super) fn load(directory: &Path, streams: &mut Streams<'_>) -> Result<Self, Failure> {
        let shown = escape(&directory.display().to_string()).into_owned();
        let loaded = manifests::load(directory)
            .map_err(|e| Failure::Undecided(format!("can not read the manifests in {shown}: {e}")))?;
        let view = manifests::Store::default().update(&loaded);
        let converted = k8s::convert::convert(&view);
        for problem in &view.problems {
            let place = format!("{}:{}:{}", problem.file.display(), problem.line, problem.column);
            warning(streams, &place, &problem.message)?;
        }
        for problem in &converted.problems {
            let place = match &problem.file {
                Some(file) => format!("{}:{}", file.display(), problem.line),
                None => problem.code.to_owned(),
            };
            warning(streams, &place, &problem.message)?;
        }
        // Seen from no node: which one is a pod's own is in its object.
        let mut world = World::new("").complete();
        world.replace(converted.objects);
        Ok(Self {
            world,
            shown,
            unreadable: view.unreadable.into_iter().next(),
        })
    }

    /// A file that can not be read may hold a policy: what the others say is no answer.
    pub(super) fn readable(&self) -> Result<(), Failure> {
        match &self.unreadable {
            None => Ok(()),
            Some(file) => Err(Failure::Undecided(format!(
                "nothing in {} can be read, so nobody knows what it holds; repair it and ask again",
                escape(&file.display().to_string())
            ))),
        }
    }
}

fn warning(streams: &mut Streams<'_>, place: &str, message: &str) -> io::Result<()> {
    let mark = paint("warning:", warn());
    writeln!(streams.err, "{mark} {}: {}", escape(place), escape(message))
}
