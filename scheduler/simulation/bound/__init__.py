"""What somebody who knows the future would have paid: the limit that every policy is measured against."""
