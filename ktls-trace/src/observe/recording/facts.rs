//! What a recording says of the kernel: enough to tell why something was not seen, and nothing about where
//! the kernel lies in memory.

use std::collections::BTreeMap;

use ktls_trace_common::layout::ABSENT;
use serde::{Deserialize, Serialize};

use crate::kernel::{Facts, Plan};

/// A kernel and the plan that was made for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KernelFacts {
    /// `uname -r`.
    pub release: String,
    /// Which hooks serve which observation.
    pub plan: Vec<Served>,
    /// What keeps every hook from being used.
    pub obstacle: Option<String>,
    /// Whether the hooks wait for kernel TLS to be loaded.
    pub waits_for_tls: bool,
    /// Offset in bytes, argument position or, for bit-fields, `offset:shift:width` of each member the hooks
    /// read; null: this kernel has none. Nothing at all without BTF.
    pub layout: Option<BTreeMap<String, Option<String>>>,
    /// Members and arguments that this kernel does not have, as the source names them.
    pub missing: Vec<String>,
}

/// How an observation is served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Served {
    /// What is observed, in words.
    pub observable: String,
    /// The kernel functions (in older recordings also as `FUNCTION (return)`); none: it can't be seen.
    pub hooks: Vec<String>,
    /// Why these, or what is lost without.
    pub why: String,
}

impl KernelFacts {
    /// What is known of this kernel.
    pub fn new(facts: &Facts, plan: &Plan) -> Self {
        let resolved = facts.layout.as_ref().ok();
        Self {
            release: facts.release.clone(),
            plan: plan
                .choices
                .iter()
                .map(|choice| Served {
                    observable: choice.observable.to_string(),
                    hooks: choice.hooks.iter().map(ToString::to_string).collect(),
                    why: choice.why.clone(),
                })
                .collect(),
            obstacle: plan.obstacle.as_ref().map(ToString::to_string),
            waits_for_tls: plan.waits_for_tls,
            layout: resolved.map(|resolved| {
                let mut members = BTreeMap::new();
                resolved.layout.each_number(|name, number| {
                    members.insert(
                        name.to_owned(),
                        (number != ABSENT).then(|| number.to_string()),
                    );
                });
                resolved.layout.each_bits(|name, bits| {
                    let place = format!("{}:{}:{}", bits.offset, bits.shift, bits.width);
                    members.insert(name.to_owned(), (bits.offset != ABSENT).then_some(place));
                });
                members
            }),
            missing: resolved.map_or_else(Vec::new, |resolved| {
                resolved
                    .missing
                    .iter()
                    .map(|name| (*name).to_owned())
                    .collect()
            }),
        }
    }
}
