package eval

// graphText is what Graphs runs where it is given nothing else. The English is Lincoln's address at
// Gettysburg (1863), the Chinese a poem of Li Bai (8th century): both are in the public domain.
const graphText = `Four score and seven years ago our fathers brought forth on this continent, a new nation, conceived in Liberty, and dedicated to the proposition that all men are created equal.

Now we are engaged in a great civil war, testing whether that nation, or any nation so conceived and so dedicated, can long endure. We are met on a great battle-field of that war. We have come to dedicate a portion of that field, as a final resting place for those who here gave their lives that that nation might live. It is altogether fitting and proper that we should do this.

床前明月光，疑是地上霜。举头望明月，低头思故乡。

CREATE TABLE words (
    id   integer PRIMARY KEY,
    text varchar(80) NOT NULL
);
SELECT text, count(*) FROM words WHERE id BETWEEN 10 AND 20 GROUP BY text ORDER BY 2 DESC;

But, in a larger sense, we can not dedicate, we can not consecrate, we can not hallow this ground. The brave men, living and dead, who struggled here, have consecrated it, far above our poor power to add or detract. The world will little note, nor long remember what we say here, but it can never forget what they did here.
`
