//! `#[derive(Xml)]`, `#[derive(XmlEnum)]` and `#[derive(XmlChoice)]` for xmlform.
//!
//! What the attributes mean is documented in xmlform itself. A field becomes one generic call
//! on each side, so the output stays small however many fields a document has.

mod choice;
mod element;
mod field;
mod words;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Reads and writes a struct as one XML element.
#[proc_macro_derive(Xml, attributes(xml))]
pub fn derive_xml(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    finish(element::expand(&input))
}

/// Maps the unit variants of an enum to the words they are written as.
#[proc_macro_derive(XmlEnum, attributes(xml))]
pub fn derive_xml_enum(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    finish(words::expand(&input))
}

/// Maps the variants of an enum to elements of different names.
#[proc_macro_derive(XmlChoice, attributes(xml))]
pub fn derive_xml_choice(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    finish(choice::expand(&input))
}

fn finish(result: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    result.unwrap_or_else(|e| e.to_compile_error()).into()
}
