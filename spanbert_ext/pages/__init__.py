"""What the HTML pages of several commands share: colours and style, charts as SVG."""
