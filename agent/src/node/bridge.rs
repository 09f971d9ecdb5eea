//! The second stage of egress: the bridge's program, and whether the programs may count on it.

use tracing::info;
use vethwall_common::config::Config;
use vethwall_datapath::{Choice, Error, Maps, attach, veth};

use super::thread::Node;

/// Egress beyond the pods waits for its second stage.
pub(super) const BRIDGE: u32 = Config::BRIDGE_V4 | Config::BRIDGE_V6;

impl Node {
    /// Egress to a Service is judged behind the bridge; while the bridge has no program, nothing is deferred to it.
    pub(super) fn look_at_bridge(&mut self) {
        let name = self.places.bridge.clone();
        let result = match veth::ifindex(&name) {
            Ok(Some(ifindex)) if self.bridge.is_some_and(|(known, _)| known == ifindex) => return,
            Ok(Some(ifindex)) => attach::attach_bridge(&self.pins, ifindex, &name, Choice::Best)
                .map(|hook| Some((ifindex, hook))),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        self.bridge_error = result.as_ref().err().map(Error::chain);
        let bridge = result.unwrap_or_default();
        let flag = |config: &mut Config, on| {
            config.flags &= !BRIDGE;
            if on {
                config.flags |= BRIDGE;
            }
        };
        let written = self.control.maps().config().and_then(|mut config| {
            flag(&mut config, bridge.is_some());
            self.control.maps_mut().set_config(&config)
        });
        match written {
            Ok(()) => {
                if bridge != self.bridge {
                    info!(bridge = %name, attached = bridge.is_some(), "second stage of egress");
                }
                self.bridge = bridge;
            }
            Err(error) => self.bridge_error = Some(error.chain()),
        }
    }
}
