//! From a pod's network namespace to the host's end of its interface.

use std::{fs::File, net::IpAddr, os::fd::AsFd, path::Path, time::Instant};

use vethwall_datapath::{Error, veth};
use vethwall_tests::sandbox::{self, command, ip};

use super::pod;

#[test]
fn the_hosts_end_is_found_from_the_pods_side() {
    sandbox::run(|| {
        let a = pod("a", "10.0.0.2/24");
        let b = pod("b", "10.0.0.3/24");
        ip("-n b addr add fd00::3/64 dev eth0 nodad").unwrap();
        let path = |name: &str| Path::new("/run/netns").join(name);
        let start = Instant::now();
        let found = veth::find(&path("b"), "eth0").unwrap();
        println!("veth found in {:?}", start.elapsed());
        assert_eq!((found.ifindex, found.name.as_str()), (b, "vb"));
        let addresses: [IpAddr; 2] = ["10.0.0.3".parse().unwrap(), "fd00::3".parse().unwrap()];
        assert_eq!(
            found.addresses, addresses,
            "link-local addresses are not the pod's"
        );
        assert_eq!(veth::find(&path("a"), "eth0").unwrap().ifindex, a);
        assert_eq!(
            veth::find_in(File::open(path("a")).unwrap().as_fd(), "eth0")
                .unwrap()
                .ifindex,
            a
        );
        let mac = command("cat", &["/sys/class/net/vb/address"]).unwrap();
        let text = found.mac.map(|byte| format!("{byte:02x}")).join(":");
        assert_ne!(mac.trim(), text, "the MAC address is that of the pod's end");
        let shown = command("ip", &["-n", "b", "link", "show", "eth0"]).unwrap();
        assert!(shown.contains(&text), "{shown}");
        assert_eq!(veth::host_veth("va").unwrap(), Some(a));
        assert_eq!(veth::host_veth("lo").unwrap(), None);
        assert_eq!(veth::host_veth("nothing").unwrap(), None);
    });
}

#[test]
fn what_is_no_pods_veth_is_refused() {
    sandbox::run(|| {
        let refused = |netns: &str, ifname: &str| match veth::find(Path::new(netns), ifname) {
            Err(Error::NotVeth { why, .. }) => why,
            other => panic!("{other:?}"),
        };
        pod("a", "10.0.0.2/24");
        assert!(refused("/run/netns/a", "eth1").contains("does not exist"));
        assert!(refused("/run/netns/a", "lo").contains("only a veth"));
        ip("-n a link add br0 type bridge").unwrap();
        assert!(refused("/run/netns/a", "br0").contains("bridge"));

        // Two ends in one pod, with a veth of the host under the same number as either.
        ip("-n a link add index 50 name eth8 type veth peer name eth9 index 51").unwrap();
        ip("link add index 50 name h8 type veth peer name h9 index 51").unwrap();
        assert!(refused("/run/netns/a", "eth8").contains("not in this network namespace"));

        // The other end is in a third namespace, and the host has a veth of that number that points to the same number.
        ip("netns add b").unwrap();
        ip("netns add c").unwrap();
        ip("link add index 60 name x0 netns b type veth peer name y0 index 61 netns c").unwrap();
        ip("link add index 61 name h0 type veth peer name z0 index 60 netns a").unwrap();
        assert!(refused("/run/netns/b", "x0").contains("not in this network namespace"));

        // Nor is it enough that the host's veth leads into the same pod: it must lead to the same interface.
        ip("link add index 70 name x1 netns b type veth peer name y1 index 71 netns c").unwrap();
        ip("link add index 71 name h1 type veth peer name z1 index 72 netns b").unwrap();
        assert!(refused("/run/netns/b", "x1").contains("not in this network namespace"));
        assert_eq!(veth::find(Path::new("/run/netns/b"), "z1").unwrap().name, "h1");

        let error = veth::find(Path::new("/run/netns/gone"), "eth0").unwrap_err();
        assert!(error.to_string().contains("/run/netns/gone"), "{error}");
    });
}
