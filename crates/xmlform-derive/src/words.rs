//! `#[derive(XmlEnum)]`: unit variants and their words, as two tables.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Error, Fields, LitStr, Result, Variant};

/// The variants of an enum.
pub(crate) fn variants(input: &DeriveInput) -> Result<Vec<&Variant>> {
    match &input.data {
        Data::Enum(data) => Ok(data.variants.iter().collect()),
        _ => Err(Error::new_spanned(&input.ident, "this derive is for enums")),
    }
}

/// The word in a variant's `#[xml("word")]`.
pub(crate) fn word(variant: &Variant) -> Result<LitStr> {
    let mut attrs = variant.attrs.iter();
    match attrs.find(|a| a.path().is_ident("xml")) {
        Some(attr) => attr.parse_args(),
        None => Err(Error::new_spanned(variant, "needs #[xml(\"word\")]")),
    }
}

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let name = &input.ident;
    let all = variants(input)?;
    if let Some(other) = all.iter().find(|v| !matches!(v.fields, Fields::Unit)) {
        return Err(Error::new_spanned(other, "unit variants only"));
    }
    let words = all.iter().map(|v| word(v)).collect::<Result<Vec<_>>>()?;
    let idents = all.iter().map(|v| &v.ident);
    Ok(quote! {
        impl #name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [#name] = &[#(#name::#idents),*];
            /// The words of all values, in the same order.
            pub const WORDS: &'static [&'static str] = &[#(#words),*];
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
