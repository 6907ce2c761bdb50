//! Configuring a guest once and keeping what that left behind.
//!
//! The component is instrumented so that its memories and globals can be read, instantiated, configured, and rewritten with
//! their contents as its initial ones. Some components cannot be: they are configured for every decision instead.

use futures_util::FutureExt as _;
use wasmtime::Store;
use wasmtime::component::{Component, Instance, Lift, WasmList};
use wasmtime_wizer::{ComponentInstanceState, Wizer};

use super::bindings::exports::execgate::policy::plugin::{Description, GuestIndices, SettingError};
use super::engine::{Bounds, Guest, Machine};
use super::load::linker;

/// How far a snapshot came.
pub(super) enum Taken {
    /// The component with the configured state as its initial one, and what it says of itself.
    Snapshot { wasm: Vec<u8>, described: Description },
    /// The settings are wrong.
    Refused(Vec<SettingError>),
}

/// Configures the component and takes its snapshot.
///
/// # Errors
/// Why it cannot be snapshotted.
pub(super) fn take(wasm: &[u8], settings: &str, bounds: Bounds) -> Result<Taken, wasmtime::Error> {
    let wizer = Wizer::new();
    let (context, instrumented) = wizer.instrument_component(wasm)?;
    let workshop = Machine::workshop()?;
    let component = Component::new(&workshop.engine, &instrumented)?;
    let linker = linker(&workshop.engine).map_err(wasmtime::Error::new)?;
    let pre = linker.instantiate_pre(&component)?;
    let indices = GuestIndices::new(&pre)?;
    let described = {
        // In an instance of its own: what it leaves behind must not be part of the snapshot.
        let mut store = workshop.store(bounds);
        let instance = pre.instantiate(&mut store)?;
        indices.load(&mut store, &instance)?.call_describe(&mut store)?
    };
    let mut store = workshop.store(bounds);
    let instance = pre.instantiate(&mut store)?;
    let plugin = indices.load(&mut store, &instance)?;
    if let Err(errors) = plugin.call_configure(&mut store, settings)? {
        return Ok(Taken::Refused(errors));
    }
    let mut state = State { store, instance };
    match wizer.snapshot_component(&context, &mut state).now_or_never() {
        Some(wasm) => Ok(Taken::Snapshot { wasm: wasm?, described }),
        None => wasmtime::bail!("the snapshot did not finish at once"),
    }
}

/// Reads an instrumented guest's state. Every future is ready at once: nothing here waits.
struct State {
    store: Store<Guest>,
    instance: Instance,
}

impl State {
    fn call<R: Lift + 'static, T>(
        &mut self,
        instance: &str,
        func: &str,
        take: impl FnOnce(&Store<Guest>, R) -> T,
    ) -> Option<T> {
        let outer = self.instance.get_export_index(&mut self.store, None, instance)?;
        let index = self.instance.get_export_index(&mut self.store, Some(&outer), func)?;
        let func = self.instance.get_typed_func::<(), (R,)>(&mut self.store, index).ok()?;
        let (value,) = func.call(&mut self.store, ()).ok()?;
        Some(take(&self.store, value))
    }
}

impl ComponentInstanceState for State {
    async fn call_func_ret_list_u8(
        &mut self,
        instance: &str,
        func: &str,
        contents: impl FnOnce(&[u8]) + Send,
    ) {
        self.call(instance, func, |store, list: WasmList<u8>| contents(list.as_le_slice(store)));
    }

    async fn call_func_ret_s32(&mut self, instance: &str, func: &str) -> i32 {
        self.call(instance, func, |_, value: i32| value).unwrap_or_default()
    }

    async fn call_func_ret_s64(&mut self, instance: &str, func: &str) -> i64 {
        self.call(instance, func, |_, value: i64| value).unwrap_or_default()
    }

    async fn call_func_ret_f32(&mut self, instance: &str, func: &str) -> u32 {
        self.call(instance, func, |_, value: f32| value.to_bits()).unwrap_or_default()
    }

    async fn call_func_ret_f64(&mut self, instance: &str, func: &str) -> u64 {
        self.call(instance, func, |_, value: f64| value.to_bits()).unwrap_or_default()
    }
}
