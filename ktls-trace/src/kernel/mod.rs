//! What this kernel offers: types, functions, modules and settings, and the plan made of them.

pub mod btf;
pub mod capabilities;
pub mod facts;
pub mod modules;
pub mod namespaces;
pub mod netns;
pub(crate) mod owners;
pub mod plan;
pub mod symbols;
pub mod sysctl;
pub mod without;

pub use facts::Facts;
pub use plan::Plan;
