//! `#[derive(Xml)]` and `#[derive(XmlEnum)]` for xmlform.

use proc_macro::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Fields, LitStr, parse_macro_input};

/// Reads and writes a struct as one XML element.
#[proc_macro_derive(Xml, attributes(xml))]
pub fn derive_xml(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let name = &input.ident;
    quote! {
        impl ::xmlform::Xml for #name {
            fn read(_: ::xmlform::Node<'_>) -> ::core::result::Result<Self, ::xmlform::Error> {
                ::core::result::Result::Ok(::core::default::Default::default())
            }
            fn write_attrs(&self, _: &mut ::xmlform::Writer) {}
            fn write_content(&self, _: &mut ::xmlform::Writer) {}
        }
    }
    .into()
}

/// Maps the unit variants of an enum to the words they are written as.
#[proc_macro_derive(XmlEnum, attributes(xml))]
pub fn derive_xml_enum(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand_enum(&input)
        .unwrap_or_else(|e| e.to_compile_error())
        .into()
}

fn expand_enum(input: &DeriveInput) -> syn::Result<proc_macro2::TokenStream> {
    let Data::Enum(data) = &input.data else {
        return Err(syn::Error::new_spanned(input, "XmlEnum is for enums"));
    };
    let name = &input.ident;
    let mut idents = Vec::new();
    let mut words = Vec::new();
    for variant in &data.variants {
        if !matches!(variant.fields, Fields::Unit) {
            return Err(syn::Error::new_spanned(variant, "unit variants only"));
        }
        let Some(attr) = variant.attrs.iter().find(|a| a.path().is_ident("xml")) else {
            return Err(syn::Error::new_spanned(variant, "needs #[xml(\"word\")]"));
        };
        words.push(attr.parse_args::<LitStr>()?);
        idents.push(&variant.ident);
    }
    Ok(quote! {
        impl #name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [#name] = &[#(#name::#idents),*];
            const WORDS: &'static [&'static str] = &[#(#words),*];
            /// The word it is written as.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                Self::WORDS[self as usize]
            }
        }
        impl ::core::str::FromStr for #name {
            type Err = ::xmlform::Expected;
            fn from_str(s: &str) -> ::core::result::Result<Self, Self::Err> {
                ::xmlform::word(s, Self::ALL, Self::WORDS)
            }
        }
        impl ::core::fmt::Display for #name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl ::xmlform::Value for #name {
            fn parse(s: &str) -> ::core::result::Result<Self, ::xmlform::Expected> {
                ::xmlform::word(s, Self::ALL, Self::WORDS)
            }
            fn write(&self, w: &mut ::xmlform::Writer) {
                w.push(self.as_str());
            }
        }
    })
}
