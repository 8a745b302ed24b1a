"""Files that crash, hang or blow up what reads them."""
