use std::{fs, path::Path};

use vethwall_cni::conflist::{self, PLUGIN, default_entry};

use super::{
    super::readback::tests::{Double, view},
    *,
};

const FLANNEL: &str =
    r#"{"name":"cbr0","cniVersion":"0.3.1","plugins":[{"type":"flannel"},{"type":"portmap"}]}"#;
const FILE: &str = "10-flannel.conflist";

struct Node {
    root: tempfile::TempDir,
    runtime: Double,
    keeper: Keeper,
    now: Instant,
}

impl Node {
    fn new(mode: ChainMode) -> Self {
        let root = tempfile::tempdir().unwrap();
        let places = Places {
            conf: root.path().join("net.d"),
            bin: root.path().join("bin"),
        };
        fs::create_dir(&places.bin).unwrap();
        fs::create_dir(&places.conf).unwrap();
        fs::write(root.path().join("plugin"), "program").unwrap();
        let settings = Settings {
            mode,
            places,
            entry: default_entry(),
            plugin: Some(root.path().join("plugin")),
            runtime: cri::Socket::Nobody,
        };
        let runtime = Double::default();
        Self {
            root,
            keeper: Keeper::new(settings, Arc::default(), Box::new(runtime.clone())),
            runtime,
            now: Instant::now(),
        }
    }

    fn conf(&self, name: &str) -> std::path::PathBuf {
        self.root.path().join("net.d").join(name)
    }

    fn flannel_writes(&self) {
        fs::write(self.conf(FILE), FLANNEL).unwrap();
    }

    fn step(&mut self, seconds: u64) -> Told {
        self.now += Duration::from_secs(seconds);
        self.keeper.step(self.now);
        self.keeper.shared.told()
    }

    fn codes(told: &Told) -> Vec<&str> {
        told.problems
            .iter()
            .map(|problem| problem.code.as_str())
            .collect()
    }
}

fn is_chained(path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|text| conflist::is_chained(&text).unwrap())
}

#[test]
fn a_node_is_chained_once_its_pods_are_taken_over_and_flannel_is_there() {
    let mut node = Node::new(ChainMode::Auto);
    let told = node.step(0);
    assert_eq!(Node::codes(&told), ["CNI003"]);
    assert!(node.root.path().join("bin/vethwall-cni").is_file());
    node.flannel_writes();
    let told = node.step(2);
    assert_eq!((told.chain.state, told.since), (ChainState::Waiting, None));
    assert!(!node.conf(plan::OWN).exists());
    node.keeper.shared.set_ready();
    let told = node.step(2);
    assert_eq!(
        (told.chain.state, told.chain.file.as_deref()),
        (ChainState::Chained, Some(plan::OWN))
    );
    assert!(
        told.problems.is_empty() && told.since == Some(node.now),
        "{told:?}"
    );
    assert!(is_chained(&node.conf(plan::OWN)));
    assert_eq!(fs::read_to_string(node.conf(FILE)).unwrap(), FLANNEL);
    // The next agent finds the chain as it is, and says so before it is ready itself.
    let mut next = Keeper::new(
        node.keeper.settings.clone(),
        Arc::default(),
        Box::new(node.runtime.clone()),
    );
    next.step(node.now);
    assert_eq!(next.shared.told().chain.state, ChainState::Chained);
}

#[test]
fn what_is_taken_away_is_put_back_and_a_fight_is_told() {
    let mut node = Node::new(ChainMode::Patch);
    node.keeper.shared.set_ready();
    node.flannel_writes();
    assert_eq!(node.step(0).chain.repairs, 0);
    for repairs in 1..=5 {
        node.flannel_writes();
        let told = node.step(2);
        assert_eq!(
            (told.chain.repairs, told.problems.len()),
            (repairs, 0),
            "{told:?}"
        );
        assert!(is_chained(&node.conf(FILE)));
    }
    // Five within ten minutes: from here on each pause is longer than the one before.
    let mut pauses = Vec::new();
    for _ in 0..4 {
        node.flannel_writes();
        let mut pause = 0;
        while !is_chained(&node.conf(FILE)) {
            pause += 1;
            let told = node.step(1);
            assert_eq!(Node::codes(&told), ["CNI004"]);
            // While nothing is written nothing is said to be in place.
            let written = is_chained(&node.conf(FILE));
            assert_eq!(
                (told.chain.state == ChainState::Chained, told.since),
                (written, written.then_some(node.now))
            );
        }
        pauses.push(pause);
    }
    assert_eq!(pauses, [1, 2, 4, 8]);
    // Peace.
    node.step(600);
    node.flannel_writes();
    assert!(node.step(2).problems.is_empty());
}

#[test]
fn a_lost_plugin_is_put_back() {
    let mut node = Node::new(ChainMode::Own);
    node.step(0);
    let plugin = node.root.path().join("bin/vethwall-cni");
    fs::remove_file(&plugin).unwrap();
    node.step(2);
    assert!(plugin.is_file());
    fs::remove_file(node.root.path().join("plugin")).unwrap();
    assert!(Node::codes(&node.step(2)).contains(&"CNI006"));
}

#[test]
fn flannels_successor_is_not_shadowed() {
    let mut node = Node::new(ChainMode::Own);
    node.keeper.shared.set_ready();
    node.flannel_writes();
    node.step(0);
    fs::write(
        node.conf("20-cilium.conflist"),
        "{\"name\":\"c\",\"plugins\":[{\"type\":\"cilium-cni\"}]}",
    )
    .unwrap();
    assert!(node.step(2).problems.is_empty(), "flannel's sorts before it");
    fs::remove_file(node.conf(FILE)).unwrap();
    for (seconds, withdrawn) in [(2, false), (59, false), (2, true)] {
        assert_eq!(Node::codes(&node.step(seconds)), ["CNI003"]);
        assert_eq!(!node.conf(plan::OWN).exists(), withdrawn, "{seconds}");
    }
    node.flannel_writes();
    assert_eq!(node.step(2).chain.state, ChainState::Chained);
    // A moment between two writes does not count.
    fs::remove_file(node.conf(FILE)).unwrap();
    node.step(40);
    node.flannel_writes();
    node.step(2);
    fs::remove_file(node.conf(FILE)).unwrap();
    node.step(40);
    assert!(node.conf(plan::OWN).exists());
}

#[test]
fn an_uninstall_is_seen_and_ends_the_keeping() {
    let mut node = Node::new(ChainMode::Own);
    node.keeper.shared.set_ready();
    node.flannel_writes();
    node.step(0);
    removal::retire(&node.keeper.settings.places.bin).unwrap();
    assert!(!node.keeper.shared.is_leaving());
    let told = node.step(2);
    assert_eq!((told.chain.state, told.chain.file), (ChainState::Removed, None));
    assert!(node.keeper.shared.is_leaving() && !node.conf(plan::OWN).exists());
    assert_eq!(fs::read_to_string(node.conf(FILE)).unwrap(), FLANNEL);
    node.step(2);
    assert!(!node.conf(plan::OWN).exists());
}

#[test]
fn a_directory_that_can_not_be_read_or_written_is_told_and_nothing_else() {
    let mut node = Node::new(ChainMode::Own);
    node.keeper.shared.set_ready();
    fs::remove_dir(node.root.path().join("net.d")).unwrap();
    assert_eq!(Node::codes(&node.step(0)), ["CNI005"]);
    fs::create_dir(node.root.path().join("net.d")).unwrap();
    node.flannel_writes();
    // Something that no file can replace stands in our place.
    fs::create_dir_all(node.conf(plan::OWN).join("x")).unwrap();
    let told = node.step(2);
    assert_eq!(Node::codes(&told), ["CNI005"]);
    assert_eq!(told.chain.state, ChainState::Unchained);
    fs::remove_dir_all(node.conf(plan::OWN)).unwrap();
    assert_eq!(node.step(2).chain.state, ChainState::Chained);
}

fn runtime_reads(node: &Node, plugins: &[&str]) {
    let mut view = view("1.7.0", plugins);
    view.cni.as_mut().unwrap().conf_dir = node.keeper.settings.places.conf.clone();
    node.runtime.says(Some(Ok(view)));
}

#[test]
fn the_chain_is_what_the_runtime_has_in_memory() {
    let mut node = Node::new(ChainMode::Auto);
    node.keeper.shared.set_ready();
    node.flannel_writes();
    runtime_reads(&node, &["flannel"]);
    let told = node.step(0);
    assert_eq!((told.chain.state, told.since), (ChainState::Written, None));
    assert!(is_chained(&node.conf(plan::OWN)) && told.problems.is_empty());
    let told = node.step(10);
    assert_eq!(Node::codes(&told), ["CNI007"]);
    assert!(told.problems[0].message.contains("it has flannel"), "{told:?}");
    runtime_reads(&node, &["flannel", PLUGIN]);
    let told = node.step(1);
    assert_eq!(
        (told.chain.state, told.since),
        (ChainState::Chained, Some(node.now))
    );
    assert_eq!(told.chain.runtime.unwrap().names_us, Some(true));
    // It restarts: what it had in memory it reads again, and until it answers nothing is taken back.
    node.runtime.says(Some(Err("refused".into())));
    let told = node.step(30);
    assert_eq!((told.chain.state, told.problems.len()), (ChainState::Chained, 0));
    assert_eq!(Node::codes(&node.step(10)), ["CNI008"]);
    // A broken list of somebody's comes first: the runtime has none.
    fs::write(node.conf("00-broken.conflist"), "{").unwrap();
    runtime_reads(&node, &[]);
    fs::remove_file(node.conf("00-broken.conflist")).unwrap();
    let told = node.step(1);
    assert_eq!((told.chain.state, told.since), (ChainState::Written, None));
}

#[test]
fn another_directory_than_the_runtimes_is_told() {
    let mut node = Node::new(ChainMode::Own);
    node.keeper.shared.set_ready();
    node.flannel_writes();
    node.runtime.says(Some(Ok(view("1.7.0", &["flannel"]))));
    node.step(0);
    let told = node.step(10);
    assert_eq!(Node::codes(&told), ["CNI007"]);
    assert!(
        told.problems[0].message.contains("reads /etc/cni/net.d"),
        "{told:?}"
    );
}

#[test]
fn a_dropin_that_is_not_read_is_given_up() {
    let mut node = Node::new(ChainMode::Auto);
    node.keeper.shared.set_ready();
    fs::write(node.conf("00-flannel.conflist"), FLANNEL).unwrap();
    node.runtime.says(Some(Ok(view("2.1.0", &["flannel"]))));
    assert_eq!(node.step(0).chain.file.as_deref(), Some("cbr0/50-vethwall.conf"));
    node.step(10);
    assert_eq!(node.step(1).chain.file.as_deref(), Some("00-flannel.conflist"));
    assert!(!node.conf("cbr0").exists());
}

#[test]
fn handlers_with_another_directory_are_told() {
    let mut node = Node::new(ChainMode::Own);
    node.keeper.shared.set_ready();
    node.flannel_writes();
    let mut told = view("2.0.0", &["flannel", PLUGIN]);
    told.handlers.push("kata".into());
    node.runtime.says(Some(Ok(told)));
    assert_eq!(Node::codes(&node.step(0)), ["CNI009"]);
}

#[test]
fn an_uninstall_waits_for_the_runtime_but_not_for_ever() {
    let mut node = Node::new(ChainMode::Own);
    node.keeper.shared.set_ready();
    node.flannel_writes();
    runtime_reads(&node, &["flannel", PLUGIN]);
    node.step(0);
    removal::retire(&node.keeper.settings.places.bin).unwrap();
    assert_eq!(node.step(1).chain.state, ChainState::Unchained);
    assert!(!node.keeper.shared.is_leaving() && !node.conf(plan::OWN).exists());
    node.step(9);
    assert!(!node.keeper.shared.is_leaving());
    node.step(1);
    assert!(node.keeper.shared.is_leaving());
}

#[test]
fn clsact_has_room_where_every_plugin_is_known_to_leave_it() {
    let mut node = Node::new(ChainMode::Own);
    node.flannel_writes();
    node.keeper.shared.set_ready();
    for (plugins, room) in [
        (&["flannel", "portmap", PLUGIN][..], true),
        (&["flannel", "portmap", "bandwidth", PLUGIN], false),
        (&["flannel", "of-somebody", PLUGIN], false),
        // It does not call us.
        (&["flannel", "portmap"], false),
    ] {
        node.runtime.says(Some(Ok(view("2.0.0", plugins))));
        // Longer than an answer is believed; what is written at the first is read back at the second.
        node.step(60);
        let told = node.step(60);
        assert_eq!(told.leaves_room_for_clsact(), room, "{plugins:?}: {told:?}");
    }
    node.runtime.says(None);
    assert!(!node.step(60).leaves_room_for_clsact(), "nobody tells");
}
