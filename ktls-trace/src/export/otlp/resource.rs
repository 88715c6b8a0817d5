//! Who sends: this program on this host.

use std::fs;

use opentelemetry_proto::tonic::{common::v1::InstrumentationScope, resource::v1::Resource};

use super::{NAME, value::Attributes};
use crate::kernel::facts;

/// Where the kernel has the name of the host.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// This program on this host. Prometheus makes `job` of the service's name and `instance` of its instance: one runs on a
/// host, so that is the host's name.
pub(super) fn resource() -> Resource {
    let host = fs::read_to_string(HOST_NAME).ok();
    let host = host.as_deref().map(str::trim);
    let mut attributes = Attributes::default();
    attributes.add("service.name", NAME);
    attributes.add("service.version", env!("CARGO_PKG_VERSION"));
    attributes.known("service.instance.id", host);
    attributes.known("host.name", host);
    attributes.add("os.type", "linux");
    attributes.add("ktls.kernel.release", facts::release());
    Resource {
        attributes: attributes.list(),
        ..Resource::default()
    }
}

/// What finds it.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: NAME.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}
