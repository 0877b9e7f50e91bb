"""A page to look at a model live; `server` serves `page.html` and `page.js`."""
