//! Guests of a few lines, written in WebAssembly text: what a policy looks like to a host that trusts none.

use std::path::Path;

use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// What a guest does, as WebAssembly text. The default answers `abstain` to everything.
#[derive(Debug, Clone, Copy)]
pub struct Guest<'a> {
    /// Further fields of the module: imports come first, then anything.
    pub imports: &'a str,
    pub fields: &'a str,
    /// The body of `configure`; leaves the address of its answer.
    pub configure: &'a str,
    /// The body of `review`; leaves the address of its answer.
    pub review: &'a str,
}

/// Memory, and the allocator that the host asks for room in it.
pub const MEMORY: &str = r#"(memory (export "memory") 2)
    (global $free (mut i32) (i32.const 65536))
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (local $at i32)
        (local.set $at (i32.and (i32.add (global.get $free) (i32.const 15)) (i32.const -16)))
        (global.set $free (i32.add (local.get $at) (local.get 3)))
        (local.get $at))"#;

impl Default for Guest<'_> {
    fn default() -> Self {
        Self { imports: "", fields: "", configure: "(i32.const 1024)", review: "(i32.const 1024)" }
    }
}

impl Guest<'_> {
    /// The core module, with the interfaces it claims to implement. From address 1024 all is zero, which reads as `ok`, `abstain`
    /// and empty texts.
    pub fn module(&self) -> Vec<u8> {
        let text = format!(
            r#"(module
                {}
                {MEMORY}
                (func (export "execgate:policy/plugin@1.0.0#describe") (result i32) (i32.const 1024))
                (func (export "execgate:policy/plugin@1.0.0#configure") (param i32 i32) (result i32) {})
                (func (export "execgate:policy/command@1.0.0#review") (param i32) (result i32) {})
                {})"#,
            self.imports, self.configure, self.review, self.fields
        );
        let mut module = wat::parse_str(text).unwrap();
        embed(&mut module, "command-policy");
        module
    }
}

/// Says in the module which world of ours it implements, as a compiler would.
pub fn embed(module: &mut Vec<u8>, world: &str) {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("wit")).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    embed_component_metadata(module, &resolve, world, StringEncoding::UTF8).unwrap();
}
