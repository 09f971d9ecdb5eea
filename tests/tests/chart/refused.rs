//! What helm refuses, with the name of what is wrong.

use super::template;

#[test]
fn a_value_that_makes_no_sense_is_named() {
    for (set, named) in [
        ("mod=audit", "mod"),
        ("mode=audit", "mode"),
        ("config.mod=audit", "mod"),
        ("config.mode=audti", "config"),
        ("config.maxPods=0", "maxPods"),
        ("config.maxPods=many", "maxPods"),
        ("config.hook=xdp", "hook"),
        ("config.criSocket=run/x", "criSocket"),
        ("config.failOpenNamespaces={kube-*}", "failOpenNamespaces"),
        // The chart's own business.
        ("config.node=a", "node"),
        ("config.plugin=/x", "plugin"),
        ("config.http={127.0.0.1:1}", "http"),
        ("config=null", "config"),
        ("platform=gke", "platform"),
        ("image.digest=sha256:12", "digest"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("image.name=x", "name"),
        ("probePort=0", "probePort"),
        ("metrics.port=70000", "port"),
        ("metrics.podMonitor.interval=soon", "interval"),
        ("metrics.podMonitor.enabled=true", "metrics.enabled"),
        ("extraCapabilities={cap_sys_admin}", "extraCapabilities"),
        ("uninstall.timeoutSeconds=1", "timeoutSeconds"),
        ("maxUnavailable=half", "maxUnavailable"),
        ("config.startupTaint=maybe", "startupTaint"),
        ("tolerations=all", "tolerations"),
    ] {
        let refused = template("1.34.0", &["--set", set]).expect_err(set);
        assert!(refused.contains(named), "{set}: {refused}");
    }
}

#[test]
fn what_another_chart_gives_to_those_it_includes_is_not_refused() {
    template("1.34.0", &["--set", "global.storageClass=x"]).unwrap();
}
