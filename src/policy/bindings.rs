//! The interfaces, as the host calls them. Generated from `wit/`.

#![allow(missing_docs, unreachable_pub, reason = "generated from the interface files, which document it")]

wasmtime::component::bindgen!({
    path: "wit",
    world: "policy",
});
