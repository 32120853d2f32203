-- Keep tasks. Message: each {id, row}. Returns for each 1 when it was new, else 0.
local new = {}
for place, each in ipairs(message) do
  new[place] = add(each[1], each[2]) and 1 or 0
end
return new
