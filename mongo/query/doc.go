// Package query evaluates MongoDB's query language on raw BSON, without a server: which documents of a dump a filter means.
//
// Known are equality, $eq $ne $gt $gte $lt $lte $in $nin, $exists, $type, $regex with $options, $size, $all, $elemMatch,
// $not, and $and $or $nor; dotted paths walk through documents and lists, and name a list's element by its number. Values
// compare as on a server without a collation. Anything else is refused by Parse, never ignored: a filter means here what
// it means to a server, or it means nothing.
//
// What differs from a server, and cannot be told beforehand: expressions are Go's (RE2) and not PCRE's. What RE2 lacks
// (lookaround, back references, possessive quantifiers) is refused; what both have means the same, but for \s, which is
// not the vertical tab here.
//
// Documents are never decoded as a whole, and matching makes no garbage worth speaking of. Memory: that of the query.
package query
