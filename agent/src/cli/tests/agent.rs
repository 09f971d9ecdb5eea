//! What the agent is told by its flags.

use std::path::Path;

use super::*;

#[test]
fn the_agent_gets_its_flags() {
    let cli = Cli::try_parse_from([
        "vethwall",
        "agent",
        "--manifests",
        "/m",
        "--node",
        "n1",
        "--run-dir",
        "/r",
        "--bpffs",
        "/b",
        "--cni-cache",
        "/c",
        "--bridge",
        "br9",
        "--existing-connections",
        "keep",
        "--own-node-egress",
        "allow",
        "--hook",
        "clsact",
        "--max-pods",
        "250",
        "--chain",
        "own",
        "--fail-open-namespaces",
        "ops,kube-system,ops",
        "--plugin",
        "/p",
        "--cni-conf-dir",
        "/net.d",
        "--cni-bin-dir",
        "/bin.d",
        "--http",
        "127.0.0.1:9435",
        "--log",
        "debug",
        "--mode",
        "audit",
    ])
    .unwrap();
    let Command::Agent(args) = cli.command else {
        panic!("{:?}", cli.command)
    };
    assert_eq!(
        args.config(&cli.global, true).unwrap(),
        crate::run::AgentConfig {
            source: Source::Manifests("/m".into()),
            home: None,
            node: "n1".to_owned(),
            run_dir: "/r".into(),
            bpffs: "/b".into(),
            abi: vethwall_common::ABI_VERSION,
            cni_cache: "/c".into(),
            bridge: "br9".to_owned(),
            settings: Settings {
                mode: crate::api::Mode::Audit,
                existing_connections: ExistingConnections::Keep,
                own_node_egress: OwnNodeEgress::Allow,
            },
            fail_open_namespaces: vec!["kube-system".to_owned(), "ops".to_owned()],
            hook: Choice::Only(vethwall_datapath::Hook::Clsact),
            max_pods: 250,
            chain: crate::chain::keeper::Settings {
                mode: ChainMode::Own,
                places: crate::chain::places::Places {
                    conf: "/net.d".into(),
                    bin: "/bin.d".into(),
                },
                entry: r#"{"type":"vethwall-cni","runDir":"/r","bpffs":"/b","hook":"clsact","failOpenNamespaces":["kube-system","ops"]}"#
                    .to_owned(),
                plugin: Some("/p".into()),
                runtime: crate::cri::Socket::Detect,
            },
            http: vec!["127.0.0.1:9435".parse().unwrap()],
            startup_taint: false,
            followed: None,
            log: "debug".to_owned().try_into().unwrap(),
            log_color: true,
        }
    );
    let cli =
        Cli::try_parse_from(["vethwall", "agent", "--manifests", "/m", "--cri-socket", "none"]).unwrap();
    let Command::Agent(args) = cli.command else {
        panic!("{:?}", cli.command)
    };
    let config = args.config(&cli.global, false).unwrap();
    assert_eq!(config.run_dir, Path::new("/run/vethwall"));
    assert_eq!(config.bpffs, Path::new("/sys/fs/bpf"));
    assert_eq!(config.cni_cache, Path::new("/var/lib/cni/results"));
    assert_eq!(config.bridge, "cni0");
    assert_eq!(config.settings, Settings::default());
    assert_eq!(config.hook, Choice::Best);
    assert_eq!(config.max_pods, 110);
    assert_eq!((config.chain.mode, config.chain.plugin), (ChainMode::Auto, None));
    let source = |more: &[&str]| {
        let line = ["vethwall", "agent", "--cri-socket", "none"];
        let cli = Cli::try_parse_from(line.iter().chain(more)).unwrap();
        let Command::Agent(args) = cli.command else {
            panic!("{:?}", cli.command)
        };
        args.config(&cli.global, false).unwrap().source
    };
    assert_eq!(source(&[]), Source::Cluster(Place::InCluster));
    assert_eq!(
        source(&["--kubeconfig", "/k"]),
        Source::Cluster(Place::Kubeconfig("/k".into()))
    );
    for wrong in [
        ["--hook", "xdp"],
        ["--max-pods", "0"],
        ["--fail-open-namespaces", "kube-*"],
        ["--fail-open-namespaces", "a,,b"],
        ["--max-pods", "many"],
        ["--chain", "first"],
        ["--kubeconfig", "/k"],
        ["--startup-taint=true", "--max-pods=9"],
    ] {
        let line = ["vethwall", "agent", "--manifests", "/m"];
        let cli = Cli::try_parse_from(line.iter().chain(&wrong)).unwrap();
        let Command::Agent(args) = cli.command else {
            panic!("{:?}", cli.command)
        };
        let refused = args.config(&cli.global, false);
        assert!(
            matches!(&refused, Err(Failure::Usage(text)) if text.starts_with(wrong[0].split('=').next().unwrap())),
            "{refused:?}"
        );
    }
    assert!(!config.node.is_empty());
}
